// One device: what it reports, what is wanted of it, what is wrong with it.
import { useState } from "preact/hooks";
import { call, get, type Json, seg } from "../api";
import { useLoad, useTitle } from "../hooks";
import { useChanges } from "../live";
import { href } from "../router";
import { isDitto, tell } from "../state";
import { pretty, shown } from "../text";
import { Form } from "../ui/dialog";
import { Icon } from "../ui/icons";
import { Card, Copy, Empty, Facts, Field, Head, Live, Shown, State, Text, type Tone, When } from "../ui/parts";
import { type Device, DeviceState } from "./devices";

interface Value {
  name: string;
  type: string | null;
  access: string | null;
  unit: string | null;
  minimum: string | null;
  maximum: string | null;
  description: string;
  reported: { value: string; at: number | null; metadata: Record<string, string> } | null;
  desired: { value: string; at: number | null } | null;
  writable: boolean;
}

interface FullDevice extends Device {
  object: unknown;
  status: unknown;
  model_object: unknown;
  fault_list: { part: string; message: string; node: string }[];
  values: Value[];
}

const QUALITIES: Record<string, Tone> = { good: "ok", uncertain: "warn", bad: "bad" };

export function DevicePage({ namespace, name }: { namespace: string; name: string }) {
  useTitle(shown(name, 60));
  const path = `devices/${seg(namespace)}/${seg(name)}`;
  const device = useLoad((aborted) => get<FullDevice>(path, aborted), [path], 10_000);
  const [editing, setEditing] = useState<Value | null>(null);
  const [isGone, setGone] = useState(false);
  useChanges<Device>("devices", (change) => {
    if (change.object.namespace !== namespace || change.object.name !== name) return;
    setGone(change.type === "gone");
    if (change.type !== "gone") device.reload();
  });
  return (
    <>
      <Head kind="Device" title={<Text of={name} max={100} />} extra={device.data && <DeviceState of={device.data} />}>
        <Copy label="kubectl" text={`kubectl -n ${namespace} get device ${name} -o yaml`} />
        {device.data && <Copy label="JSON" text={() => JSON.stringify(device.data!.object, null, 2)} />}
      </Head>
      {isGone && <p class="offline" role="alert">This device was deleted. What you see is its last state.</p>}
      <Shown of={device} lines={8}>
        {(data) => (
          <>
            <Facts
              of={[
                ["Namespace", <Text of={data.namespace} />],
                ["Node", data.node && <a href={href("fleet", data.node)}><Text of={data.node} max={60} /></a>],
                ["Model", <Text of={data.model} />],
                ["Protocol", <Text of={data.protocol} />],
                ["Last online", <When at={data.last_online} both />],
                ["Thing", isDitto.value ? <a href={href("things", data.thing)}><Text of={data.thing} max={100} /></a> : <Text of={data.thing} max={100} />],
              ]}
            />
            {data.description && <p><Text of={data.description} max={600} /></p>}
            {data.fault_list.length > 0 && (
              <Card title="Faults" wide>
                <ul class="plain">
                  {data.fault_list.map((one) => (
                    <li key={one.part + one.message}>
                      <State tone="bad"><Text of={one.part || "device"} max={60} /></State> <Text of={one.message} max={500} />
                    </li>
                  ))}
                </ul>
              </Card>
            )}
            <Card title="Properties" wide>
              {data.values.length === 0 ? <Empty title="The device has no properties" /> : <Values of={data.values} onEdit={setEditing} />}
            </Card>
            <details>
              <summary>The Device, its status and model as they are</summary>
              <pre class="code" tabIndex={0}>{pretty({ device: data.object, status: data.status, model: data.model_object })}</pre>
            </details>
          </>
        )}
      </Shown>
      {editing && <SetDesired path={path} of={editing} onClose={() => setEditing(null)} onDone={device.reload} />}
    </>
  );
}

const Values = ({ of, onEdit }: { of: Value[]; onEdit: (one: Value) => void }) => (
  <div class="values-box">
    <table class="values even" aria-label="Properties">
      <thead>
        <tr>
          <th scope="col">Property</th>
          <th scope="col">Reported</th>
          <th scope="col">Desired</th>
          <th scope="col">Quality</th>
          <th scope="col">Time</th>
          <th scope="col" class="optional">Type</th>
        </tr>
      </thead>
      <tbody>
        {of.map((one) => (
          <tr key={one.name}>
            <th scope="row" title={shown(one.description, 200)}>
              <Text of={one.name} max={80} />
            </th>
            <td class="mono">
              <Live of={one.reported?.value} path={`reported/${one.name}`}>{one.reported ? <Text of={one.reported.value} max={200} /> : <span class="muted">–</span>}</Live>
              {one.unit && one.reported && <span class="muted small"> <Text of={one.unit} max={20} /></span>}
            </td>
            <td class="mono">
              <Live of={one.desired?.value} path={`desired/${one.name}`}>{one.desired ? <Text of={one.desired.value} max={200} /> : <span class="muted">–</span>}</Live>
              {one.desired && one.reported && one.desired.value !== one.reported.value && <State tone="warn">waiting</State>}
              {one.writable && (
                <button type="button" class="quiet icon-only pencil" aria-label={`Set desired ${shown(one.name, 60)}`} onClick={() => onEdit(one)}>
                  <Icon of="edit" />
                </button>
              )}
            </td>
            <td class="quality">
              {one.reported ? <Quality of={one.reported.metadata} /> : <span class="muted">–</span>}
            </td>
            <td>
              <When at={one.reported?.metadata["sourceTime"] ?? one.reported?.metadata["timestamp"] ?? one.reported?.at} />
            </td>
            <td class="optional muted small">
              <Text of={[one.type?.toLowerCase(), one.writable ? "" : "read-only", range(one)].filter(Boolean).join(", ")} max={60} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  </div>
);

function Quality({ of }: { of: Record<string, string> }) {
  const word = of["quality"] || "good";
  return <State tone={QUALITIES[word.toLowerCase()] ?? "idle"} title={shown(of["why"] ?? "", 200)}><Text of={word.toLowerCase()} max={40} /></State>;
}

const range = (one: Value): string => (one.minimum ?? one.maximum) !== null && (one.minimum || one.maximum) ? `${one.minimum ?? "…"} to ${one.maximum ?? "…"}` : "";

function SetDesired({ path, of, onClose, onDone }: { path: string; of: Value; onClose: () => void; onDone: () => void }) {
  const start = of.desired?.value ?? of.reported?.value ?? "";
  const [value, setValue] = useState(start);
  const [isBack, setBack] = useState(false);
  const isBoolean = of.type === "BOOLEAN";
  const act = async () => {
    await call(`${path}/desired/${seg(of.name)}`, { method: "PUT", body: { value: isBack ? null : typed(value, of.type) } });
    tell(isBack ? `${of.name.slice(0, 60)}: wish taken back` : `${of.name.slice(0, 60)}: wish set`);
    onDone();
  };
  return (
    <Form title={`Desired ${shown(of.name, 60)}`} verb="Set" onDo={act} onClose={onClose}>
      <Field label="Value" hint={[of.type?.toLowerCase(), of.unit, range(of)].filter(Boolean).join(", ") || undefined}>
        {(id, described) =>
          isBoolean ? (
            <select id={id} value={value} disabled={isBack} onChange={(event) => setValue(event.currentTarget.value)}>
              <option value="true">true</option>
              <option value="false">false</option>
            </select>
          ) : (
            <input id={id} aria-describedby={described} class="mono" value={value} disabled={isBack} onInput={(event) => setValue(event.currentTarget.value)} autocomplete="off" />
          )
        }
      </Field>
      {of.desired && (
        <label class="check">
          <input type="checkbox" checked={isBack} onChange={(event) => setBack(event.currentTarget.checked)} /> Take the wish back
        </label>
      )}
    </Form>
  );
}

function typed(text: string, type: string | null): Json {
  if (type === "BOOLEAN") return text === "true";
  if (/^(INT|FLOAT|DOUBLE)/.test(type ?? "") && text.trim() !== "" && Number.isFinite(Number(text))) return type === "INT" && Math.abs(Number(text)) > Number.MAX_SAFE_INTEGER ? text : Number(text);
  return text;
}
