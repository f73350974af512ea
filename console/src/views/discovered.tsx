// What mappers see and nobody has accepted yet.
import { useState } from "preact/hooks";
import { call, get, seg } from "../api";
import { useTitle } from "../hooks";
import { useLiveList } from "../live";
import { go, href, params, setParams } from "../router";
import { tell } from "../state";
import { pretty, shown } from "../text";
import { Form } from "../ui/dialog";
import { Empty, Facts, Failure, Field, Head, Loading, Search, State, Text, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

interface Discovered {
  name: string;
  node: string;
  protocol: string;
  address: string;
  title: string;
  model: string;
  manufacturer: string;
  signal: number | null;
  first_seen: number | null;
  last_seen: number | null;
  accepted: string | null;
  message: string;
  properties: number;
  object: unknown;
}

const StateOf = ({ of }: { of: Discovered }) => (of.accepted ? <State tone="ok">accepted</State> : of.message ? <State tone="warn" title={shown(of.message, 300)}>refused</State> : <State tone="info">new</State>);

const titleOf = (of: Discovered) => of.title || of.name;

const makeOf = (of: Discovered) => [of.manufacturer, of.model].filter(Boolean).join(" ");

const COLUMNS: Column<Discovered>[] = [
  { id: "name", title: "Seen as", cell: (row) => <Text of={titleOf(row)} max={80} />, by: titleOf, size: "2fr" },
  { id: "state", title: "State", cell: (row) => <StateOf of={row} />, by: (row) => (row.accepted ? 2 : row.message ? 1 : 0), size: "7rem" },
  { id: "protocol", title: "Protocol", cell: (row) => <Text of={row.protocol} max={30} />, by: (row) => row.protocol, size: "6rem", from: "mid" },
  { id: "address", title: "Address", cell: (row) => <Text of={row.address} max={60} mono />, by: (row) => row.address, size: "1.4fr", from: "mid" },
  { id: "model", title: "Model", cell: (row) => <Text of={makeOf(row) || "–"} max={60} />, by: makeOf, size: "1.4fr", from: "wide" },
  { id: "node", title: "Node", cell: (row) => <Text of={row.node} max={60} />, by: (row) => row.node, size: "1fr", from: "mid" },
  { id: "properties", title: "Properties", cell: (row) => row.properties, by: (row) => row.properties, size: "6.5rem", end: true, from: "wide" },
  { id: "signal", title: "Signal", cell: (row) => (row.signal === null ? "–" : `${row.signal} dBm`), by: (row) => row.signal ?? -999, size: "5.5rem", end: true, from: "wide" },
  { id: "seen", title: "Seen", cell: (row) => <When at={row.last_seen} />, by: (row) => row.last_seen ?? 0, size: "6.5rem", end: true },
];

export function DiscoveredList() {
  useTitle("Discovered");
  const list = useLiveList<Discovered>("discovered", (_after, aborted) => get("discovered", aborted), (one) => one.name, []);
  const [chosen, setChosen] = useState<Discovered | null>(null);
  const word = (params.value.get("q") ?? "").toLowerCase();
  const found = (list.items ?? []).filter((one) => !word || [one.name, one.title, one.protocol, one.address, one.model, one.manufacturer, one.node].some((text) => text?.toLowerCase().includes(word)));
  return (
    <>
      <Head title="Discovered" extra={list.items && <p class="muted count" role="status">{list.items.length} seen</p>} />
      <div class="filters">
        <Search label="Search discovered devices" placeholder="Name, protocol, address, model" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} />
      </div>
      {!list.items ? list.error ? <Failure error={list.error} again={list.reload} /> : <Loading /> : <Table label="Discovered devices" rows={found} columns={COLUMNS} keyOf={(row) => row.name} onOpen={(row) => (row.accepted ? go(href("devices", ...row.accepted.split("/"))) : setChosen(row))} empty={<Empty title={list.items.length ? "None fits" : "Nothing is seen"}>{list.items.length === 0 && "Mappers list here what answers them and is no Device yet."}</Empty>} />}
      {chosen && <Accept of={chosen} onClose={() => setChosen(null)} onDone={list.reload} />}
    </>
  );
}

function nameFor(of: Discovered): string {
  const wished = (of.title || of.address).toLowerCase().replace(/[^a-z0-9.-]+/g, "-").replace(/^[^a-z0-9]+/, "");
  return wished.slice(0, 63).replace(/[^a-z0-9]+$/, "");
}

function Accept({ of, onClose, onDone }: { of: Discovered; onClose: () => void; onDone: () => void }) {
  const [namespace, setNamespace] = useState("default");
  const [name, setName] = useState(nameFor(of));
  const act = async () => {
    const made = (await call<{ namespace: string; name: string; pending?: boolean }>(`discovered/${seg(of.name)}/accept`, { method: "POST", body: { namespace, name } })).data;
    onDone();
    if (made.pending) return void tell(`${name.slice(0, 60)}: the cloud has not answered yet`, "info");
    tell(`${made.name.slice(0, 60)} is a device now`);
    go(href("devices", made.namespace, made.name));
  };
  return (
    <Form title="Accept as a device" verb="Accept" onDo={act} onClose={onClose} wide>
      <Facts of={[["Seen as", <Text of={titleOf(of)} max={100} />], ["Protocol", <Text of={of.protocol} />], ["Address", <Text of={of.address} mono />], ["Node", <Text of={of.node} />], ["Model", <Text of={makeOf(of) || "–"} />], ["Properties", of.properties], ["Signal", of.signal === null ? null : `${of.signal} dBm`], ["First seen", <When at={of.first_seen} both />], ["Last seen", <When at={of.last_seen} both />]]} />
      {of.message && <p><State tone="warn">Refused</State> <Text of={of.message} max={400} /></p>}
      <div class="row-form">
        <Field label="Namespace">{(id) => <input id={id} class="mono" required value={namespace} onInput={(event) => setNamespace(event.currentTarget.value)} />}</Field>
        <Field label="Name" hint="Lower-case letters, digits, - and .">{(id, described) => <input id={id} aria-describedby={described} class="mono" required pattern="[a-z0-9]([a-z0-9.\-]*[a-z0-9])?" maxLength={253} value={name} onInput={(event) => setName(event.currentTarget.value)} />}</Field>
      </div>
      <details>
        <summary>As it was seen</summary>
        <pre class="code" tabIndex={0}>{pretty(of.object, 20_000)}</pre>
      </details>
    </Form>
  );
}
