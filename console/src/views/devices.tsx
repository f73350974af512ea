// Devices of edge nodes: a list for many thousands, and one device.
import { useMemo, useState } from "preact/hooks";
import { get, query } from "../api";
import { useSettled, useTitle } from "../hooks";
import { useLiveList } from "../live";
import { href, params, setParams } from "../router";
import { count } from "../text";
import { Empty, Failure, Head, Loading, Search, State, Text, type Tone, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

export interface Device {
  namespace: string;
  name: string;
  node: string | null;
  model: string;
  protocol: string;
  state: string;
  last_online: string | null;
  faults: number;
  properties: number;
  thing: string;
  description: string;
  version: string;
}

const TONES: Record<string, Tone> = { online: "ok", ok: "ok", offline: "bad", unhealthy: "warn" };

export const DeviceState = ({ of }: { of: { state: string; faults: number } }) => (
  <State tone={of.state === "online" && of.faults > 0 ? "warn" : (TONES[of.state] ?? "idle")}>
    {of.state}
    {of.faults > 0 && `, ${of.faults} ${of.faults === 1 ? "fault" : "faults"}`}
  </State>
);

export const DEVICE_COLUMNS: Column<Device>[] = [
  { id: "name", title: "Device", cell: (row) => <Text of={row.name} max={80} />, by: (row) => row.name, size: "2.4fr" },
  { id: "state", title: "State", cell: (row) => <DeviceState of={row} />, by: (row) => `${row.state}${row.faults}`, size: "9rem" },
  { id: "namespace", title: "Namespace", cell: (row) => <Text of={row.namespace} max={60} />, by: (row) => row.namespace, size: "1.2fr", from: "wide" },
  { id: "node", title: "Node", cell: (row) => <Text of={row.node ?? "–"} max={60} />, by: (row) => row.node ?? "", size: "1.2fr", from: "mid" },
  { id: "model", title: "Model", cell: (row) => <Text of={row.model} max={60} />, by: (row) => row.model, size: "1.4fr", from: "mid" },
  { id: "protocol", title: "Protocol", cell: (row) => <Text of={row.protocol} max={30} />, by: (row) => row.protocol, size: "6.5rem", from: "wide" },
  { id: "online", title: "Last online", cell: (row) => <When at={row.last_online} />, by: (row) => row.last_online ?? "", size: "7rem", end: true, from: "mid" },
];

export function Devices() {
  useTitle("Devices");
  const q = params.value.get("q") ?? "";
  const state = params.value.get("state") ?? "";
  const node = params.value.get("node") ?? "";
  const [typed, setTyped] = useState(q);
  const settled = useSettled(q);
  const list = useLiveList<Device>(
    "devices",
    (after, aborted) => get(`devices${query({ q: settled, state, node, limit: 500, continue: after })}`, aborted),
    (one) => `${one.namespace}/${one.name}`,
    [settled, state, node],
    (one) => isFound(one, settled.toLowerCase(), state, node),
  );
  const offline = useMemo(() => list.items?.filter((one) => one.state === "offline").length ?? 0, [list.items]);
  const search = (text: string) => {
    setTyped(text);
    setParams({ q: text });
  };
  return (
    <>
      <Head title="Devices" extra={list.items && <p class="muted count" role="status">{count(list.total ?? list.items.length)} {(list.total ?? list.items.length) === 1 ? "device" : "devices"}{offline > 0 && `, ${count(offline)} offline`}{!list.complete && `, ${count(list.items.length)} loaded`}</p>} />
      <div class="filters">
        <Search label="Search devices" placeholder="Name, node, model, description" value={typed} onInput={search} />
        <select aria-label="State" value={state} onChange={(event) => setParams({ state: event.currentTarget.value })}>
          <option value="">any state</option>
          <option value="online">online</option>
          <option value="offline">offline</option>
          <option value="unknown">unknown</option>
        </select>
        {node && (
          <button type="button" onClick={() => setParams({ node: undefined })}>
            Node <Text of={node} max={40} /> ×
          </button>
        )}
      </div>
      {!list.items ? list.error ? <Failure error={list.error} again={list.reload} /> : <Loading lines={10} /> : <Table label="Devices" rows={list.items} columns={DEVICE_COLUMNS} keyOf={(row) => `${row.namespace}/${row.name}`} hrefOf={(row) => href("devices", row.namespace, row.name)} total={list.total} seen={22} empty={<Empty title={q || state || node ? "No device fits" : "No devices yet"}>{!(q || state || node) && "Devices are made with kubectl, or by accepting one that was discovered."}</Empty>} />}
    </>
  );
}

function isFound(one: Device, word: string, state: string, node: string): boolean {
  if ((state && one.state !== state) || (node && one.node !== node)) return false;
  return !word || [one.name, one.namespace, one.node, one.model, one.description].some((text) => text?.toLowerCase().includes(word));
}
