// Features and attributes: what is reported, what is wanted, and changing it.
import { useState } from "preact/hooks";
import type { Json } from "../../api";
import { params, setParams } from "../../router";
import { at, isSame, type Leaf, leaves, pathOf, type Thing } from "../../twin";
import { Icon } from "../../ui/icons";
import { Empty, Live, Search, State, Text, When } from "../../ui/parts";
import { EditValue } from "./edit";

interface Row {
  path: string[];
  reported: Json | undefined;
  desired: Json | undefined;
}

function rowsOf(reported: Leaf[], desired: Leaf[], all: Json | undefined): Row[] {
  const rows = new Map<string, Row>();
  for (const { path, value } of reported) rows.set(pathOf(path), { path, reported: value, desired: undefined });
  for (const { path, value } of desired) rows.set(pathOf(path), { path, reported: at(all, path), desired: value });
  return [...rows.values()];
}

export function Features({ thing, lit }: { thing: Thing; lit: Map<string, number> }) {
  const word = (params.value.get("feature") ?? "").toLowerCase();
  const names = Object.keys(thing.features ?? {});
  const found = names.filter((name) => name.toLowerCase().includes(word)).slice(0, 300);
  const [editing, setEditing] = useState<string[] | null>(null);
  if (names.length === 0) return <Empty title="No features">The thing has none, or you may see none.</Empty>;
  return (
    <>
      {names.length > 8 && <Search label="Search features" value={params.value.get("feature") ?? ""} onInput={(feature) => setParams({ feature })} />}
      {found.map((name) => {
        const feature = thing.features?.[name] ?? {};
        const rows = rowsOf(leaves(feature.properties), leaves(feature.desiredProperties), feature.properties);
        return (
          <details class="feature" open key={name}>
            <summary>
              <Icon of="down" />
              <h2>
                <Text of={name} max={100} />
              </h2>
              {feature.definition && <span class="muted small"><Text of={feature.definition.join(", ")} max={120} /></span>}
            </summary>
            <Values base={["features", name, "properties"]} wanted={["features", name, "desiredProperties"]} rows={rows} lit={lit} onEdit={setEditing} label={name} />
          </details>
        );
      })}
      {editing && <EditValue thingId={thing.thingId} path={editing} onClose={() => setEditing(null)} />}
    </>
  );
}

export function Attributes({ thing, lit }: { thing: Thing; lit: Map<string, number> }) {
  const [editing, setEditing] = useState<string[] | null>(null);
  const rows = rowsOf(leaves(thing.attributes), [], thing.attributes);
  return (
    <>
      {rows.length === 0 ? <Empty title="No attributes" /> : <Values base={["attributes"]} rows={rows} lit={lit} onEdit={setEditing} label="Attributes" />}
      {editing && <EditValue thingId={thing.thingId} path={editing} onClose={() => setEditing(null)} />}
    </>
  );
}

interface ValuesProps {
  base: string[];
  wanted?: string[];
  rows: Row[];
  lit: Map<string, number>;
  label: string;
  onEdit: (path: string[]) => void;
}

function Values({ base, wanted, rows, lit, label, onEdit }: ValuesProps) {
  if (rows.length === 0) return <p class="muted small pad">No properties.</p>;
  const since = (row: Row) => Math.max(lit.get(pathOf([...base, ...row.path])) ?? 0, wanted ? (lit.get(pathOf([...wanted, ...row.path])) ?? 0) : 0);
  return (
    <div class="values-box">
      <table class="values even" aria-label={`Values of ${label.slice(0, 80)}`}>
        <thead>
          <tr>
            <th scope="col">Property</th>
            <th scope="col">{wanted ? "Reported" : "Value"}</th>
            {wanted && <th scope="col">Desired</th>}
            {wanted && <th scope="col">State</th>}
            <th scope="col" class="optional">Seen to change</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const path = [...base, ...row.path];
            const name = row.path.join("/");
            return (
              <tr key={pathOf(row.path)}>
                <th scope="row">
                  <Text of={name} max={100} />
                </th>
                <td class="mono">
                  <Live of={row.reported} path={pathOf(path)}>{row.reported === undefined ? <span class="muted">–</span> : <Text of={row.reported} max={300} />}</Live>
                  <Pencil what={`${wanted ? "reported " : ""}${name}`} onEdit={() => onEdit(path)} />
                </td>
                {wanted && (
                  <td class="mono">
                    <Live of={row.desired} path={pathOf([...wanted, ...row.path])}>{row.desired === undefined ? <span class="muted">–</span> : <Text of={row.desired} max={300} />}</Live>
                    <Pencil what={`desired ${name}`} onEdit={() => onEdit([...wanted, ...row.path])} />
                  </td>
                )}
                {wanted && <td>{row.desired === undefined ? <span class="muted">–</span> : isSame(row.reported, row.desired) ? <State tone="ok">in step</State> : <State tone="warn">waiting</State>}</td>}
                <td class="optional">{since(row) ? <When at={since(row)} /> : <span class="muted">–</span>}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

const Pencil = ({ what, onEdit }: { what: string; onEdit: () => void }) => (
  <button type="button" class="quiet icon-only pencil" aria-label={`Edit ${what.slice(0, 80)}`} onClick={onEdit}>
    <Icon of="edit" />
  </button>
);
