// Connections: their state, figures and logs.
import { useState } from "preact/hooks";
import { call, get, type JsonObject, query, seg } from "../api";
import { useLoad, useTitle } from "../hooks";
import { href, params, setParams } from "../router";
import { tell } from "../state";
import { count, pretty, shown } from "../text";
import { Confirm } from "../ui/dialog";
import { Copy, Empty, Facts, Head, Search, Shown, State, Tabs, Text, type Tone, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

interface Connection extends JsonObject {
  id: string;
  name: string;
  connectionType: string;
  connectionStatus: string;
}

interface PartStatus {
  type: string;
  address?: string;
  status: string;
  statusDetails?: string;
  inStateSince?: string;
}

interface Status {
  connectionStatus: string;
  liveStatus: string;
  recoveryStatus?: string;
  connectedSince?: string;
  clientStatus: PartStatus[];
  sourceStatus: PartStatus[];
  targetStatus: PartStatus[];
}

interface Counter {
  PT1M: number;
  PT1H: number;
  PT24H: number;
  lastMessageAt: string | null;
}

type Measured = Record<string, { success: Counter; failure: Counter }>;

interface LogEntry {
  timestamp: string;
  category: string;
  type: string;
  level: string;
  message: string;
  address?: string;
  correlationId: string;
}

const BASE = "/api/2/connections";
const TONES: Record<string, Tone> = { open: "ok", closed: "idle", failed: "bad", misconfigured: "bad", success: "ok", failure: "bad" };

const Word = ({ of }: { of: string | undefined }) => <State tone={TONES[of ?? ""] ?? "info"}><Text of={of ?? "unknown"} max={30} /></State>;

const COLUMNS: Column<Connection>[] = [
  { id: "name", title: "Connection", cell: (row) => <Text of={row.name || row.id} max={100} />, by: (row) => row.name || row.id, size: "2fr" },
  { id: "status", title: "Wanted", cell: (row) => <Word of={row.connectionStatus} />, by: (row) => row.connectionStatus, size: "7rem" },
  { id: "type", title: "Type", cell: (row) => <Text of={row.connectionType} max={30} />, by: (row) => row.connectionType, size: "7rem", from: "mid" },
  { id: "id", title: "Id", cell: (row) => <Text of={row.id} max={80} mono />, by: (row) => row.id, size: "2fr", from: "mid" },
  { id: "changed", title: "Changed", cell: (row) => <When at={row["_modified"]} />, by: (row) => String(row["_modified"] ?? ""), size: "7rem", end: true, from: "mid" },
];

export function Connections() {
  useTitle("Connections");
  const list = useLoad((aborted) => get<Connection[]>(`${BASE}${query({ fields: "id,name,connectionType,connectionStatus,_modified" })}`, aborted), [], 10_000);
  const word = (params.value.get("q") ?? "").toLowerCase();
  return (
    <>
      <Head title="Connections" extra={list.data && <p class="muted count" role="status">{list.data.length}</p>} />
      <div class="filters"><Search label="Search connections" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} /></div>
      <Shown of={list} lines={6}>{(data) => <Table label="Connections" rows={data.filter((one) => !word || `${one.name} ${one.id} ${one.connectionType}`.toLowerCase().includes(word))} columns={COLUMNS} keyOf={(row) => row.id} hrefOf={(row) => href("connections", row.id)} empty={<Empty title={data.length ? "No connection fits" : "No connections"} />} />}</Shown>
    </>
  );
}

export function ConnectionPage({ id }: { id: string }) {
  const path = `${BASE}/${seg(id)}`;
  const connection = useLoad((aborted) => get<Connection>(path, aborted), [path]);
  const status = useLoad((aborted) => get<Status>(`${path}/status`, aborted), [path], 3000);
  const [isClosing, setClosing] = useState(false);
  useTitle(shown(connection.data?.name ?? id, 60));
  const command = async (name: string, done: string) => {
    await call(`${path}/command`, { method: "POST", raw: `connectivity.commands:${name}`, headers: { "content-type": "text/plain" } });
    tell(done);
    status.reload();
    connection.reload();
  };
  const isOpen = status.data?.connectionStatus === "open";
  const tried = (name: string, done: string) => void command(name, done).catch((error: unknown) => tell(error instanceof Error ? error.message : String(error), "bad"));
  return (
    <>
      <Head kind="Connection" title={<Text of={connection.data?.name ?? id} max={100} />} extra={status.data && <Word of={status.data.liveStatus} />}>
        {status.data && (isOpen ? <button type="button" class="danger" onClick={() => setClosing(true)}>Close …</button> : <button type="button" class="primary" onClick={() => tried("openConnection", "The connection opens")}>Open</button>)}
        {connection.data && <Copy label="JSON" text={() => JSON.stringify(connection.data, null, 2)} />}
      </Head>
      <Shown of={status}>
        {(data) => (
          <>
            <Facts of={[["Wanted", <Word of={data.connectionStatus} />], ["Is", <Word of={data.liveStatus} />], ["Recovery", <Text of={data.recoveryStatus ?? "–"} />], ["Open since", <When at={data.connectedSince} both />], ["Type", <Text of={connection.data?.connectionType ?? ""} />], ["Id", <Text of={id} mono />]]} />
            <Tabs
              label="Parts of the connection"
              of={[
                { id: "status", title: "Status", body: () => <StatusTable of={[...data.clientStatus, ...data.sourceStatus, ...data.targetStatus]} /> },
                { id: "metrics", title: "Metrics", body: () => <MetricsView path={path} /> },
                { id: "logs", title: "Logs", body: () => <LogsView path={path} onEnable={() => tried("enableConnectionLogs", "Logs are kept for a day")} onReset={() => tried("resetConnectionLogs", "Logs emptied")} /> },
                { id: "json", title: "JSON", body: () => <Shown of={connection}>{(found) => <pre class="code" tabIndex={0}>{pretty(found)}</pre>}</Shown> },
              ]}
            />
          </>
        )}
      </Shown>
      {isClosing && <Confirm title="Close the connection" verb="Close it" onDo={() => command("closeConnection", "The connection closes")} onClose={() => setClosing(false)}>Messages no longer pass until it is opened again.</Confirm>}
    </>
  );
}

const StatusTable = ({ of }: { of: PartStatus[] }) => (
  <div class="values-box card">
    <table class="values" aria-label="Status of the parts">
      <thead><tr><th scope="col">Part</th><th scope="col">Address</th><th scope="col">Status</th><th scope="col">Since</th><th scope="col" class="optional">Details</th></tr></thead>
      <tbody>
        {of.map((one, nth) => (
          <tr key={nth}>
            <th scope="row">{one.type}</th>
            <td><Text of={one.address ?? "–"} max={80} mono /></td>
            <td><Word of={one.status} /></td>
            <td><When at={one.inStateSince} /></td>
            <td class="optional"><Text of={one.statusDetails ?? ""} max={300} /></td>
          </tr>
        ))}
      </tbody>
    </table>
  </div>
);

function MetricsView({ path }: { path: string }) {
  const metrics = useLoad((aborted) => get<{ connectionMetrics: { inbound: Measured; outbound: Measured } }>(`${path}/metrics`, aborted), [path], 5000);
  return (
    <Shown of={metrics}>
      {(data) => (
        <div class="values-box card">
          <table class="values" aria-label="Messages">
            <thead><tr><th scope="col">Way</th><th scope="col">Step</th><th scope="col" class="end">Last minute</th><th scope="col" class="end optional">Last hour</th><th scope="col" class="end">Last day</th><th scope="col" class="end">Failures (day)</th><th scope="col" class="optional">Last</th></tr></thead>
            <tbody>
              {(["inbound", "outbound"] as const).flatMap((way) => Object.entries(data.connectionMetrics[way] ?? {}).map(([step, { success, failure }]) => (
                <tr key={way + step}>
                  <th scope="row">{way}</th>
                  <td class="word"><Text of={step} max={40} /></td>
                  <td class="end">{count(success.PT1M)}</td>
                  <td class="end optional">{count(success.PT1H)}</td>
                  <td class="end">{count(success.PT24H)}</td>
                  <td class="end">{failure.PT24H > 0 ? <State tone="bad">{count(failure.PT24H)}</State> : 0}</td>
                  <td class="optional"><When at={success.lastMessageAt} /></td>
                </tr>
              )))}
            </tbody>
          </table>
        </div>
      )}
    </Shown>
  );
}

const LOG_COLUMNS: Column<LogEntry>[] = [
  { id: "time", title: "Time", cell: (row) => <When at={row.timestamp} />, by: (row) => row.timestamp, size: "7rem" },
  { id: "level", title: "Level", cell: (row) => <Word of={row.level} />, by: (row) => row.level, size: "7rem" },
  { id: "what", title: "What", cell: (row) => <Text of={`${row.category} ${row.type}`} max={40} />, by: (row) => row.category + row.type, size: "9rem", from: "mid" },
  { id: "address", title: "Address", cell: (row) => <Text of={row.address ?? ""} max={60} mono />, size: "1fr", from: "wide" },
  { id: "message", title: "Message", cell: (row) => <Text of={row.message} max={400} />, size: "4fr" },
];

function LogsView({ path, onEnable, onReset }: { path: string; onEnable: () => void; onReset: () => void }) {
  const logs = useLoad((aborted) => get<{ connectionLogs: LogEntry[]; enabledUntil?: string | null }>(`${path}/logs`, aborted), [path], 5000);
  return (
    <Shown of={logs}>
      {(data) => (
        <>
          <div class="actions">
            <button type="button" onClick={onEnable}>Keep logs for a day</button>
            <button type="button" onClick={onReset}>Empty</button>
            <span class="muted small">{data.enabledUntil ? <>kept until <When at={data.enabledUntil} both /></> : "not kept"}</span>
          </div>
          <Table label="Logs" rows={[...data.connectionLogs].reverse()} columns={LOG_COLUMNS} keyOf={(row) => `${row.timestamp} ${row.correlationId} ${row.category} ${row.type} ${row.message}`} empty={<Empty title="No log entries" />} />
        </>
      )}
    </Shown>
  );
}
