// What a thing was: its kept events as a list, and a value of them over time.
import { useEffect, useMemo, useState } from "preact/hooks";
import { type ApiError, query, seg } from "../../api";
import { params, setParams } from "../../router";
import { follow } from "../../stream";
import { instant, shown } from "../../text";
import { at, leaves, pathOf, pointer, type ThingEvent } from "../../twin";
import { Empty, Failure, Field, Loading, StreamMark, Text, When } from "../../ui/parts";
import { Plot } from "../../ui/plot";
import { type Column, Table } from "../../ui/table";
import type { Sample } from "./index";

const KEPT = 2000;
const SPANS: [string, string][] = [
  ["200", "last 200 changes"],
  ["2000", "last 2,000 changes"],
  ["1h", "last hour"],
  ["24h", "last day"],
];

function spanQuery(span: string): Record<string, string> {
  if (/^\d+$/.test(span)) return { "from-historical-revision": `-${span}` };
  const hours = Number(span.replace("h", ""));
  return { "from-historical-timestamp": new Date(Date.now() - hours * 3_600_000).toISOString() };
}

const COLUMNS: Column<ThingEvent>[] = [
  { id: "revision", title: "Revision", cell: (row) => row._revision ?? "", by: (row) => row._revision ?? 0, size: "5.5rem", end: true },
  { id: "time", title: "When", cell: (row) => <When at={row._modified} />, size: "7.5rem" },
  { id: "what", title: "What", cell: (row) => <Text of={row._context?.topic?.split("/").pop() ?? ""} />, size: "5.5rem", from: "mid" },
  { id: "path", title: "Path", cell: (row) => <Text of={row._context?.path ?? "/"} max={120} mono />, size: "2fr", from: "mid" },
  { id: "value", title: "Value", cell: (row) => <Text of={row._context?.value ?? null} max={160} mono />, size: "3fr" },
];

export function History({ id, live }: { id: string; live: Sample[] }) {
  const span = params.value.get("span") ?? "200";
  const { events, state, error } = usePast(id, span);
  const all = useMemo(() => {
    const last = events.at(-1)?._revision ?? 0;
    return [...events, ...live.map((one) => one.event).filter((one) => (one._revision ?? 0) > last)].slice(-KEPT);
  }, [events, live]);
  const paths = useMemo(() => numericPaths(all), [all]);
  const chosen = params.value.get("value") ?? paths[0] ?? "";
  const series = useMemo(() => [{ label: chosen, points: pointsOf(all, chosen) }], [all, chosen]);
  if (error) return <Failure error={error} />;
  return (
    <>
      <div class="row-form">
        <Field label="From">
          {(id) => (
            <select id={id} value={span} onChange={(event) => setParams({ span: event.currentTarget.value })}>
              {SPANS.map(([value, word]) => (
                <option key={value} value={value}>
                  {word}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Value">
          {(id) => (
            <select id={id} value={chosen} onChange={(event) => setParams({ value: event.currentTarget.value })} disabled={paths.length === 0}>
              {paths.map((path) => (
                <option key={path} value={path}>
                  {shown(path, 100)}
                </option>
              ))}
            </select>
          )}
        </Field>
        {state === "ended" ? <span class="muted small">{all.length} {all.length === 1 ? "change" : "changes"}</span> : <StreamMark of={state} />}
      </div>
      {all.length === 0 && state !== "ended" ? (
        <Loading />
      ) : (
        <>
          {paths.length > 0 && (
            <div class="card">
              <Plot title={shown(chosen, 120)} unit="" series={series} height={220} />
            </div>
          )}
          <Table label="Changes" rows={[...all].reverse()} columns={COLUMNS} keyOf={(row) => String(row._revision)} seen={14} empty={<Empty title="Nothing is kept of this time" />} />
        </>
      )}
    </>
  );
}

function usePast(id: string, span: string) {
  const [found, setFound] = useState<{ events: ThingEvent[]; state: "connecting" | "live" | "waiting" | "ended" | "refused"; error?: ApiError }>({ events: [], state: "connecting" });
  useEffect(() => {
    const events: ThingEvent[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    setFound({ events: [], state: "connecting" });
    const show = () => setFound((before) => ({ ...before, events: events.slice(-KEPT) }));
    const address = `/api/2/things/${seg(id)}${query({ ...spanQuery(span), fields: "attributes,features,_revision,_modified,_context" })}`;
    const following = follow(address, {
      finite: true,
      onEvent: (event) => {
        events.push(JSON.parse(event.data) as ThingEvent);
        if (events.length > KEPT * 2) events.splice(0, KEPT);
        timer ??= setTimeout(() => ((timer = undefined), show()), 120);
      },
      onState: (state, error) => setFound((before) => ({ events: state === "ended" ? events.slice(-KEPT) : before.events, state, error })),
    });
    return () => {
      following.close();
      clearTimeout(timer);
    };
  }, [id, span]);
  return found;
}

const partOf = (event: ThingEvent) => ({ ...(event.attributes ? { attributes: event.attributes } : {}), ...(event.features ? { features: event.features } : {}) }) as never;

function numericPaths(events: ThingEvent[]): string[] {
  const found = new Map<string, number>();
  for (const event of events) {
    for (const { path, value } of leaves(partOf(event), 100, 8)) {
      if (typeof value !== "number" && typeof value !== "boolean") continue;
      const name = pathOf(path);
      if (found.size < 300 || found.has(name)) found.set(name, (found.get(name) ?? 0) + 1);
    }
  }
  return [...found].sort((a, b) => b[1] - a[1]).map(([name]) => name);
}

function pointsOf(events: ThingEvent[], path: string): [number, number][] {
  const parts = pointer(path);
  const points = new Map<number, number>();
  for (const event of events) {
    const value = at(partOf(event), parts);
    const time = instant(event._modified);
    if (time !== null && (typeof value === "number" || typeof value === "boolean")) points.set(time / 1000, Number(value));
  }
  return [...points].sort((a, b) => a[0] - b[0]);
}
