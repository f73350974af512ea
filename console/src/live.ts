// One stream of changes for the whole page: browsers hold few connections to a host.
import { effect, signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, asError, get, query } from "./api";
import { isOperator, now, parts, tell } from "./state";
import { follow, type Following, type StreamState } from "./stream";

export type Kind = "nodes" | "devices" | "pods" | "discovered";

export interface Change<T> {
  kind: Kind;
  type: "added" | "changed" | "gone";
  object: T;
}

interface Subscriber {
  kinds: readonly Kind[];
  onHello: () => void;
  onChange: (change: Change<unknown>) => void;
}

const subscribers = new Set<Subscriber>();
let following: Following | null = null;
let asked = "";
export const liveState = signal<StreamState>("connecting");

function subscribe(one: Subscriber): () => void {
  subscribers.add(one);
  queueMicrotask(adapt);
  return () => {
    subscribers.delete(one);
    queueMicrotask(adapt);
  };
}

/** Open the stream that all subscribers together need. */
function adapt(): void {
  const kinds = [...new Set([...subscribers].flatMap((one) => one.kinds))].sort().join(",");
  if (kinds === asked) return;
  asked = kinds;
  following?.close();
  following = kinds === "" ? null : follow(`events${query({ kinds })}`, { onEvent: (event) => dispatch(event.event, event.data), onState: (state) => (liveState.value = state) });
}

function dispatch(name: string, data: string): void {
  if (name === "hello") for (const one of [...subscribers]) one.onHello();
  if (name !== "change") return;
  const change = JSON.parse(data) as Change<unknown>;
  for (const one of [...subscribers]) if (one.kinds.includes(change.kind)) one.onChange(change);
}

const BATCH_MS = 200;

interface Page<T> {
  items: T[];
  continue?: string | null;
  total?: number;
}

export interface LiveList<T> {
  items: T[] | undefined;
  total: number | undefined;
  error: ApiError | undefined;
  complete: boolean;
  reload: () => void;
}

/** A list that is read in pages and kept up to date; `fits` says whether a changed object belongs to it. */
export function useLiveList<T>(kind: Kind, load: (after: string | undefined, aborted: AbortSignal) => Promise<Page<T>>, keyOf: (one: T) => string, deps: unknown[], fits: (one: T) => boolean = () => true): LiveList<T> {
  const [state, setState] = useState<{ items?: T[]; total?: number; error?: ApiError; complete: boolean }>({ complete: false });
  const [round, setRound] = useState(0);
  const held = useRef({ all: new Map<string, T>(), waiting: [] as Change<T>[], fits });
  held.current.fits = fits;
  useEffect(() => setState({ complete: false }), deps);
  useEffect(() => {
    const aborter = new AbortController();
    const fresh = new Map<string, T>();
    let retry: ReturnType<typeof setTimeout> | undefined;
    const read = async () => {
      let after: string | undefined;
      let total: number | undefined;
      do {
        const page = await load(after, aborter.signal);
        for (const one of page.items) fresh.set(keyOf(one), one);
        after = page.continue ?? undefined;
        total = page.total;
        held.current.all = fresh;
        setState({ items: [...fresh.values()], total: total ?? (after ? undefined : fresh.size), complete: !after });
      } while (after && fresh.size < MOST && !aborter.signal.aborted);
    };
    read().catch((reason: unknown) => {
      if (aborter.signal.aborted) return;
      const error = asError(reason);
      setState((before) => ({ ...before, error }));
      if (error.status === 0 || error.status >= 502) retry = setTimeout(() => setRound((n) => n + 1), 3000);
    });
    return () => {
      aborter.abort();
      clearTimeout(retry);
    };
  }, [...deps, round]);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let greetings = 0;
    const flush = () => {
      timer = undefined;
      const { all, waiting } = held.current;
      for (const change of waiting.splice(0)) {
        const key = keyOf(change.object);
        if (change.type === "gone" || !held.current.fits({ ...all.get(key), ...change.object })) all.delete(key);
        else all.set(key, change.object);
      }
      setState((before) => (before.items ? { ...before, items: [...all.values()], total: before.complete ? all.size : before.total } : before));
    };
    const stop = subscribe({
      kinds: [kind],
      onHello: () => greetings++ > 0 && setRound((n) => n + 1),
      onChange: (change) => {
        held.current.waiting.push(change as Change<T>);
        timer ??= setTimeout(flush, BATCH_MS);
      },
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [kind]);
  return useMemo(() => ({ items: state.items, total: state.total, error: state.error, complete: state.complete, reload: () => setRound((n) => n + 1) }), [state]);
}

const MOST = 20_000;

/** Call `onChange` for each change of one kind while the component is there. */
export function useChanges<T>(kind: Kind, onChange: (change: Change<T>) => void): void {
  const latest = useRef(onChange);
  latest.current = onChange;
  useEffect(() => subscribe({ kinds: [kind], onHello: () => undefined, onChange: (change) => latest.current(change as Change<T>) }), [kind]);
}

export interface FleetNode {
  name: string;
  ready: boolean | null;
  reason: string;
  since: number | null;
  heartbeat: number | null;
  edge: boolean;
  link: { connected: boolean; since: number | null } | null;
  location: [number, number] | null;
  region: string | null;
  zone: string | null;
  group: string | null;
  devices: number;
  devices_online: number;
  pods: number;
  version: string;
  os: string;
  architecture: string;
  address: string | null;
  cordoned: boolean;
  labels: Record<string, string>;
  created: number | null;
}

export interface LinkChange {
  node: string;
  connected: boolean;
  at: number;
}

/** All nodes by name, once they are known. */
export const nodes = signal<Map<string, FleetNode> | undefined>(undefined);
export const nodesError = signal<ApiError | undefined>(undefined);
/** What links did while this page was open, newest first. */
export const linkChanges = signal<LinkChange[]>([]);

export async function readNodes(): Promise<void> {
  try {
    const { items } = await get<{ items: FleetNode[] }>("nodes");
    for (const one of items) noteLink(one);
    nodes.value = new Map(items.map((one) => [one.name, one]));
    nodesError.value = undefined;
  } catch (reason) {
    nodesError.value = asError(reason);
  }
}

function noteLink(next: FleetNode): void {
  const before = nodes.peek()?.get(next.name);
  if (!before?.link || !next.link || before.link.connected === next.link.connected) return;
  linkChanges.value = [{ node: next.name, connected: next.link.connected, at: now.peek() }, ...linkChanges.value].slice(0, 500);
  tell(next.link.connected ? `${next.name.slice(0, 60)}: connected` : `${next.name.slice(0, 60)}: link lost`, next.link.connected ? "ok" : "bad");
}

let stopNodes: (() => void) | null = null;
effect(() => {
  const isWanted = isOperator.value && parts.value["kube"] === true;
  if (isWanted && !stopNodes) {
    void readNodes();
    stopNodes = subscribe({
      kinds: ["nodes"],
      onHello: () => void readNodes(),
      onChange: (change) => {
        const node = change.object as FleetNode;
        const next = new Map(nodes.peek() ?? []);
        if (change.type === "gone") next.delete(node.name);
        else {
          noteLink(node);
          next.set(node.name, node);
        }
        nodes.value = next;
      },
    });
  } else if (!isWanted && stopNodes) {
    stopNodes();
    stopNodes = null;
    nodes.value = undefined;
  }
});
