// Workloads by kind, and their pods.
import { useState } from "preact/hooks";
import { call, get, query, seg } from "../api";
import { useLoad, useTitle } from "../hooks";
import { useChanges } from "../live";
import { href, params, setParams } from "../router";
import { tell } from "../state";
import { Confirm, Form } from "../ui/dialog";
import { Empty, Field, Head, Search, Shown, State, Text, type Tone, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

export interface Workload {
  kind: string;
  namespace: string;
  name: string;
  ready: number;
  wanted: number;
  images: string[];
  created: number | string | null;
  state: string;
  message: string;
}

export interface Pod {
  namespace: string;
  name: string;
  node: string | null;
  phase: string;
  ready: string;
  restarts: number;
  reason: string;
  containers: string[];
  owner: { kind: string; name: string } | null;
  created: number | string | null;
  address: string | null;
}

export interface Workloads {
  items: Workload[];
  pods: Pod[];
  truncated: boolean;
}

const TONES: Record<string, Tone> = { ok: "ok", done: "ok", progressing: "info", degraded: "bad", paused: "idle" };
const PHASES: Record<string, Tone> = { Running: "ok", Succeeded: "ok", Pending: "info", Failed: "bad" };

export const PodState = ({ of }: { of: Pod }) => <State tone={of.reason && of.phase !== "Succeeded" ? "warn" : (PHASES[of.phase] ?? "idle")}><Text of={of.reason || of.phase} max={50} /></State>;

export const POD_COLUMNS: Column<Pod>[] = [
  { id: "name", title: "Pod", cell: (row) => <Text of={row.name} max={90} />, by: (row) => row.name, size: "2.4fr" },
  { id: "state", title: "State", cell: (row) => <PodState of={row} />, by: (row) => row.reason || row.phase, size: "11rem" },
  { id: "ready", title: "Ready", cell: (row) => row.ready, by: (row) => row.ready, size: "4.5rem", end: true, from: "mid" },
  { id: "restarts", title: "Restarts", cell: (row) => row.restarts, by: (row) => row.restarts, size: "5.5rem", end: true, from: "mid" },
  { id: "node", title: "Node", cell: (row) => <Text of={row.node ?? "–"} max={60} />, by: (row) => row.node ?? "", size: "1.2fr", from: "mid" },
  { id: "owner", title: "Of", cell: (row) => <Text of={row.owner ? `${row.owner.kind} ${row.owner.name}` : "–"} max={80} />, by: (row) => row.owner?.name ?? "", size: "1.6fr", from: "wide" },
  { id: "namespace", title: "Namespace", cell: (row) => <Text of={row.namespace} max={60} />, by: (row) => row.namespace, size: "1fr", from: "wide" },
  { id: "created", title: "Age", cell: (row) => <When at={row.created} />, by: (row) => String(row.created ?? ""), size: "6.5rem", end: true },
];

const COLUMNS: Column<Workload>[] = [
  { id: "name", title: "Name", cell: (row) => <Text of={row.name} max={90} />, by: (row) => row.name, size: "2fr" },
  { id: "state", title: "State", cell: (row) => <State tone={TONES[row.state] ?? "idle"} title={row.message.slice(0, 300)}><Text of={row.state} max={30} /></State>, by: (row) => row.state, size: "8rem" },
  { id: "ready", title: "Ready", cell: (row) => `${row.ready} / ${row.wanted}`, by: (row) => row.ready, size: "5rem", end: true },
  { id: "namespace", title: "Namespace", cell: (row) => <Text of={row.namespace} max={60} />, by: (row) => row.namespace, size: "1fr", from: "mid" },
  { id: "images", title: "Images", cell: (row) => <Text of={row.images.join(", ")} max={120} mono />, size: "2fr", from: "wide" },
  { id: "created", title: "Age", cell: (row) => <When at={row.created} />, by: (row) => String(row.created ?? ""), size: "6.5rem", end: true, from: "mid" },
];

export function WorkloadList() {
  useTitle("Workloads");
  const namespace = params.value.get("namespace") ?? "";
  const word = (params.value.get("q") ?? "").toLowerCase();
  const spaces = useLoad((aborted) => get<{ items: string[] }>("namespaces", aborted), []);
  const list = useLoad((aborted) => get<Workloads>(`workloads${query({ namespace })}`, aborted), [namespace], 10_000);
  const [chosen, setChosen] = useState<Workload | null>(null);
  useChanges<Pod>("pods", () => list.reload());
  return (
    <>
      <Head title="Workloads" />
      <div class="filters">
        <Search label="Search workloads and pods" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} />
        <select aria-label="Namespace" value={namespace} onChange={(event) => setParams({ namespace: event.currentTarget.value })}>
          <option value="">all namespaces</option>
          {(spaces.data?.items ?? []).map((one) => (
            <option key={one} value={one}>{one}</option>
          ))}
        </select>
      </div>
      <Shown of={list} lines={8}>
        {(data) => {
          const items = data.items.filter((one) => !word || `${one.name} ${one.namespace} ${one.images.join(" ")}`.toLowerCase().includes(word));
          const pods = data.pods.filter((one) => !word || `${one.name} ${one.namespace} ${one.node ?? ""} ${one.owner?.name ?? ""}`.toLowerCase().includes(word));
          const kinds = [...new Set(items.map((one) => one.kind))];
          return (
            <>
              {data.truncated && <p class="offline"><State tone="warn">There are more</State> than are shown: choose a namespace.</p>}
              {kinds.map((kind) => (
                <section key={kind} aria-label={kind} class="plot-group">
                  <h2>{kind}</h2>
                  <Table label={kind} rows={items.filter((one) => one.kind === kind)} columns={COLUMNS} keyOf={(row) => `${row.namespace}/${row.name}`} onOpen={setChosen} seen={8} empty={null} />
                </section>
              ))}
              {items.length === 0 && <Empty title={data.items.length ? "No workload fits" : "No workloads"} />}
              <section aria-label="Pods" class="plot-group">
                <h2>Pods</h2>
                <Table label="Pods" rows={pods} columns={POD_COLUMNS} keyOf={(row) => `${row.namespace}/${row.name}`} hrefOf={(row) => href("pods", row.namespace, row.name)} seen={16} empty={<Empty title={data.pods.length ? "No pod fits" : "No pods"} />} />
              </section>
            </>
          );
        }}
      </Shown>
      {chosen && <WorkloadDialog of={chosen} onClose={() => setChosen(null)} onDone={list.reload} />}
    </>
  );
}

const SCALED = ["Deployment", "StatefulSet"];
const RESTARTED = ["Deployment", "StatefulSet", "DaemonSet"];

function WorkloadDialog({ of, onClose, onDone }: { of: Workload; onClose: () => void; onDone: () => void }) {
  const [replicas, setReplicas] = useState(of.wanted);
  const [isRestart, setRestart] = useState(false);
  const path = `workloads/${seg(of.namespace)}/${seg(of.kind)}/${seg(of.name)}`;
  const scale = async () => {
    if (!SCALED.includes(of.kind)) return;
    await call(`${path}/scale`, { method: "POST", body: { replicas } });
    tell(`${of.name.slice(0, 60)}: ${replicas} wanted`);
    onDone();
  };
  const restart = async () => {
    await call(`${path}/restart`, { method: "POST" });
    tell(`${of.name.slice(0, 60)} restarts`);
    onDone();
    onClose();
  };
  if (isRestart) {
    return (
      <Confirm title={`Restart ${of.kind}`} verb="Restart" onDo={restart} onClose={() => setRestart(false)}>
        Its pods are replaced one after the other: <Text of={`${of.namespace}/${of.name}`} max={120} mono />
      </Confirm>
    );
  }
  return (
    <Form title={`${of.kind} ${of.name.slice(0, 80)}`} verb={SCALED.includes(of.kind) ? "Scale" : "Close"} onDo={scale} onClose={onClose}>
      <p>
        <State tone={TONES[of.state] ?? "idle"}>{of.state}</State> {of.ready} of {of.wanted} ready. <Text of={of.message} max={400} />
      </p>
      <p class="mono small"><Text of={of.images.join("\n")} max={500} /></p>
      {SCALED.includes(of.kind) && (
        <Field label="Replicas">{(id) => <input id={id} type="number" min={0} max={1000} value={replicas} onInput={(event) => setReplicas(Number(event.currentTarget.value))} />}</Field>
      )}
      {RESTARTED.includes(of.kind) && (
        <div>
          <button type="button" class="danger" onClick={() => setRestart(true)}>Restart …</button>
        </div>
      )}
    </Form>
  );
}
