// Messages as they come: filtered, paused, opened.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, query } from "../api";
import { useLoad, useSettled, useStream, useTitle } from "../hooks";
import { params, setParams } from "../router";
import { absolute, bytes, count, fromBase64, hexLines, pretty, shown } from "../text";
import { Dialog } from "../ui/dialog";
import { Copy, Empty, Facts, Failure, Field, Head, Loading, State, StreamMark, Text } from "../ui/parts";
import { type Column, Table } from "../ui/table";

export interface Message {
  nth: number;
  at: number;
  tenant: string;
  device: string;
  kind: string;
  status: string;
  encoding: "json" | "text" | "base64";
  payload: unknown;
  size: number;
  cut?: boolean;
  [more: string]: unknown;
}

interface Rates {
  total: number;
  kinds: Record<string, number>;
}

const KEPT = 1000;
const KINDS = ["telemetry", "event", "command", "response"];

const timeOf = (at: number) => absolute(at * 1000).slice(11) + `.${String(Math.floor((at % 1) * 1000)).padStart(3, "0")}`;

const preview = (one: Message): string => (one.encoding === "base64" ? `${bytes(one.size)} of bytes` : typeof one.payload === "string" ? one.payload : JSON.stringify(one.payload));

export const MESSAGE_COLUMNS: Column<Message>[] = [
  { id: "at", title: "Time", cell: (row) => <time>{timeOf(row.at)}</time>, size: "8rem" },
  { id: "kind", title: "Kind", cell: (row) => row.kind, by: (row) => row.kind, size: "6rem" },
  { id: "device", title: "Device", cell: (row) => <Text of={row.device} max={60} />, by: (row) => row.device, size: "1.2fr" },
  { id: "status", title: "Outcome", cell: (row) => <State tone={/^[123]\d\d$|forwarded|accepted|ok|delivered|sent/.test(row.status) ? "ok" : "warn"} title={row["error"] ? shown(String(row["error"]), 200) : undefined}><Text of={row.status} max={30} /></State>, by: (row) => row.status, size: "8.5rem", from: "mid" },
  { id: "type", title: "Content type", cell: (row) => <Text of={row["content-type"] ?? ""} max={50} />, size: "1.2fr", from: "wide" },
  { id: "size", title: "Size", cell: (row) => bytes(row.size), by: (row) => row.size, size: "5rem", end: true, from: "mid" },
  { id: "payload", title: "Payload", cell: (row) => <Text of={preview(row)} max={160} mono />, size: "3fr", from: "mid" },
];

export interface Tail {
  messages: Message[];
  rates: Rates | null;
  missed: number;
  stream: ReturnType<typeof useStream>;
  clear: () => void;
}

/** Follow the messages of a tenant; at most KEPT of them are held. */
export function useTail(path: string | null, isPaused: boolean): Tail {
  const [state, setState] = useState<{ messages: Message[]; rates: Rates | null; missed: number }>({ messages: [], rates: null, missed: 0 });
  const waiting = useRef<Message[]>([]);
  const nth = useRef(0);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const flush = () => {
    timer.current = undefined;
    const fresh = waiting.current.splice(0).reverse();
    setState((before) => ({ ...before, messages: [...fresh, ...before.messages].slice(0, KEPT) }));
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  useEffect(() => setState({ messages: [], rates: null, missed: 0 }), [path]);
  const stream = useStream(path, (event) => {
    const data = JSON.parse(event.data) as never;
    if (event.event === "rates") setState((before) => ({ ...before, rates: data }));
    else if (event.event === "dropped") setState((before) => ({ ...before, missed: before.missed + (data as { count: number }).count }));
    else if (event.event === "message" && !isPaused) {
      waiting.current.push({ ...(data as Message), nth: nth.current++ });
      if (waiting.current.length > KEPT) waiting.current.shift();
      timer.current ??= setTimeout(flush, 150);
    }
  });
  return { ...state, stream, clear: () => setState((before) => ({ ...before, messages: [], missed: 0 })) };
}

export function TailView() {
  useTitle("Messages");
  const tenants = useLoad((aborted) => get<{ items: { id: string; enabled: boolean }[] }>("tenants", aborted), []);
  const [isPaused, setPaused] = useState(false);
  const [open, setOpen] = useState<Message | null>(null);
  const tenant = params.value.get("tenant") ?? tenants.data?.items[0]?.id ?? "";
  const kind = params.value.get("kind") ?? "";
  const device = useSettled(params.value.get("device") ?? "", 400);
  const rate = params.value.get("rate") ?? "20";
  const tail = useTail(tenant ? `tail${query({ tenant, kind, device, max_rate: rate, max_bytes: 8192 })}` : null, isPaused);
  return (
    <>
      <Head title="Messages" extra={<StreamMark of={tail.stream.state} paused={isPaused} />}>
        <button type="button" aria-pressed={isPaused} onClick={() => setPaused(!isPaused)}>{isPaused ? "Go on" : "Pause"}</button>
        <button type="button" onClick={tail.clear}>Clear</button>
      </Head>
      <div class="row-form">
        <Field label="Tenant">
          {(id) => (
            <>
              <input id={id} list="tenants" value={tenant} onChange={(event) => setParams({ tenant: event.currentTarget.value })} />
              <datalist id="tenants">{(tenants.data?.items ?? []).map((one) => <option key={one.id} value={one.id} />)}</datalist>
            </>
          )}
        </Field>
        <Field label="Kind">
          {(id) => (
            <select id={id} value={kind} onChange={(event) => setParams({ kind: event.currentTarget.value })}>
              <option value="">all</option>
              {KINDS.map((one) => <option key={one}>{one}</option>)}
            </select>
          )}
        </Field>
        <Field label="Device">{(id) => <input id={id} data-search placeholder="all" value={params.value.get("device") ?? ""} onInput={(event) => setParams({ device: event.currentTarget.value })} />}</Field>
        <Field label="Shown at most">
          {(id) => (
            <select id={id} value={rate} onChange={(event) => setParams({ rate: event.currentTarget.value })}>
              {["5", "20", "50", "200"].map((one) => <option key={one} value={one}>{one} a second</option>)}
            </select>
          )}
        </Field>
      </div>
      <p class="rates muted" role="status">
        {tail.rates ? `${count(tail.rates.total)} messages a second${Object.entries(tail.rates.kinds).filter(([, much]) => much > 0).map(([name, much]) => `, ${name} ${count(much)}`).join("")}` : "Rates come with the first second."}
        {tail.missed > 0 && ` · ${count(tail.missed)} not shown`}
      </p>
      {tail.stream.error ? <Failure error={tail.stream.error} /> : !tenant && tenants.loading ? <Loading /> : <Table label="Messages" rows={tail.messages} columns={MESSAGE_COLUMNS} keyOf={(row) => String(row.nth)} onOpen={setOpen} seen={20} empty={<Empty title="Nothing came yet">Messages of the tenant stand here as they come; what came before is not kept.</Empty>} />}
      {open && <MessageView of={open} onClose={() => setOpen(null)} />}
    </>
  );
}

const SHOWN_APART = ["nth", "payload", "encoding"];

export function MessageView({ of, onClose }: { of: Message; onClose: () => void }) {
  const [isHex, setHex] = useState(of.encoding === "base64");
  const raw = typeof of.payload === "string" ? of.payload : JSON.stringify(of.payload);
  const data = of.encoding === "base64" ? fromBase64(raw) : new TextEncoder().encode(raw);
  const text = of.encoding === "json" && typeof of.payload !== "string" ? pretty(of.payload) : shown(jsonLines(raw), 50_000, true);
  return (
    <Dialog title={`${of.kind} of ${shown(of.device, 60)}`} onClose={onClose} wide>
      <div class="dialog-body">
        <Facts of={Object.entries(of).filter(([name]) => !SHOWN_APART.includes(name)).map(([name, value]) => [name, name === "at" ? absolute(of.at * 1000) : <Text of={value} max={200} />])} />
        <div class="actions">
          <button type="button" aria-pressed={!isHex} disabled={of.encoding === "base64"} onClick={() => setHex(false)}>Text</button>
          <button type="button" aria-pressed={isHex} onClick={() => setHex(true)}>Hex</button>
          <Copy label="payload" text={raw} />
        </div>
        {of.cut && <p class="small muted">Cut: the whole is {bytes(of.size)}.</p>}
        <pre class="code" tabIndex={0}>{isHex ? hexLines(data) : text}</pre>
      </div>
    </Dialog>
  );
}

function jsonLines(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
