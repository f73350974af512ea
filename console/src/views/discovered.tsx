// What mappers see and nobody has accepted yet.
import { useState } from "preact/hooks";
import { call, get, seg } from "../api";
import { useTitle } from "../hooks";
import { useLiveList } from "../live";
import { go, href, params, setParams } from "../router";
import { tell } from "../state";
import { pretty } from "../text";
import { Form } from "../ui/dialog";
import { Empty, Facts, Failure, Field, Head, Loading, Search, State, Text, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

interface Discovered {
  name: string;
  node: string;
  protocol: string;
  address: string;
  signal: number | string | null;
  seen: number | string | null;
  state: string;
  model: string | null;
  suggested: string | { name?: string; model?: string } | null;
  object: unknown;
}

const COLUMNS: Column<Discovered>[] = [
  { id: "name", title: "Seen as", cell: (row) => <Text of={row.name} max={80} />, by: (row) => row.name, size: "2fr" },
  { id: "state", title: "State", cell: (row) => <State tone={/accept/i.test(row.state ?? "") ? "ok" : "info"}><Text of={(row.state || "new").toLowerCase()} max={30} /></State>, by: (row) => row.state ?? "", size: "7.5rem" },
  { id: "protocol", title: "Protocol", cell: (row) => <Text of={row.protocol} max={30} />, by: (row) => row.protocol, size: "7rem", from: "mid" },
  { id: "address", title: "Address", cell: (row) => <Text of={row.address} max={60} mono />, by: (row) => row.address, size: "1.6fr", from: "mid" },
  { id: "model", title: "Model", cell: (row) => <Text of={row.model ?? "–"} max={60} />, by: (row) => row.model ?? "", size: "1.6fr", from: "wide" },
  { id: "node", title: "Node", cell: (row) => <Text of={row.node} max={60} />, by: (row) => row.node, size: "1fr", from: "wide" },
  { id: "signal", title: "Signal", cell: (row) => (typeof row.signal === "number" ? `${row.signal} dBm` : <Text of={row.signal ?? "–"} max={20} />), by: (row) => Number(row.signal ?? -999), size: "5.5rem", end: true, from: "wide" },
  { id: "seen", title: "Seen", cell: (row) => <When at={row.seen} />, by: (row) => String(row.seen ?? ""), size: "6.5rem", end: true },
];

export function DiscoveredList() {
  useTitle("Discovered");
  const list = useLiveList<Discovered>("discovered", (_after, aborted) => get("discovered", aborted), (one) => one.name, []);
  const [chosen, setChosen] = useState<Discovered | null>(null);
  const word = (params.value.get("q") ?? "").toLowerCase();
  const found = (list.items ?? []).filter((one) => !word || [one.name, one.protocol, one.address, one.model, one.node].some((text) => text?.toLowerCase().includes(word)));
  return (
    <>
      <Head title="Discovered" extra={list.items && <p class="muted count" role="status">{list.items.length} seen</p>} />
      <div class="filters">
        <Search label="Search discovered devices" placeholder="Name, protocol, address, model" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} />
      </div>
      {!list.items ? list.error ? <Failure error={list.error} again={list.reload} /> : <Loading /> : <Table label="Discovered devices" rows={found} columns={COLUMNS} keyOf={(row) => row.name} onOpen={setChosen} empty={<Empty title={list.items.length ? "None fits" : "Nothing is seen"}>{list.items.length === 0 && "Mappers list here what answers them and is no Device yet."}</Empty>} />}
      {chosen && <Accept of={chosen} onClose={() => setChosen(null)} onDone={list.reload} />}
    </>
  );
}

function nameFor(of: Discovered): string {
  const wished = typeof of.suggested === "string" ? of.suggested : (of.suggested?.name ?? of.name);
  return wished.toLowerCase().replace(/[^a-z0-9.-]+/g, "-").replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "").slice(0, 63);
}

function Accept({ of, onClose, onDone }: { of: Discovered; onClose: () => void; onDone: () => void }) {
  const [namespace, setNamespace] = useState("default");
  const [name, setName] = useState(nameFor(of));
  const act = async () => {
    const made = (await call<{ namespace: string; name: string }>(`discovered/${seg(of.name)}/accept`, { method: "POST", body: { namespace, name } })).data;
    tell(`${made.name.slice(0, 60)} is a device now`);
    onDone();
    go(href("devices", made.namespace, made.name));
  };
  return (
    <Form title="Accept as a device" verb="Accept" onDo={act} onClose={onClose} wide>
      <Facts of={[["Seen as", <Text of={of.name} max={100} />], ["Protocol", <Text of={of.protocol} />], ["Address", <Text of={of.address} mono />], ["Node", <Text of={of.node} />], ["Model", <Text of={of.model ?? "–"} />], ["Seen", <When at={of.seen} both />]]} />
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
