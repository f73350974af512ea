// Plots of the gateway's own metrics.
import { useMemo } from "preact/hooks";
import { get, query, seg } from "../api";
import { useLoad, useTitle } from "../hooks";
import { params, setParams } from "../router";
import { duration } from "../text";
import { Empty, Failure, Head, Search, Shown } from "../ui/parts";
import { Plot, type Series } from "../ui/plot";

export interface PlotInfo {
  id: string;
  title: string;
  unit: string;
  group: string;
}

export interface PlotList {
  items: PlotInfo[];
  nodes: PlotInfo[];
  ranges: number[];
  step: number;
  prometheus: boolean;
}

interface PlotData {
  start: number;
  end: number;
  truncated?: boolean;
  series: { labels: Record<string, string>; points: [number, number | null][] }[];
}

const UNITS: Record<string, string> = { "1/s": "/s", "B/s": "B/s", "1": "" };

export const nameOf = (labels: Record<string, string>): string => Object.values(labels).join(" · ") || "value";

export function PlotOf({ of, range, height = 180, node }: { of: PlotInfo; range: number; height?: number; node?: string }) {
  const plot = useLoad((aborted) => get<PlotData>(`plots/${seg(of.id)}${query({ range, node })}`, aborted), [of.id, range, node], Math.max(5000, range * 5));
  const series = useMemo<Series[]>(() => unique(plot.data?.series ?? []), [plot.data]);
  const span = useMemo<[number, number] | undefined>(() => (plot.data ? [plot.data.start, plot.data.end] : undefined), [plot.data]);
  return (
    <div class="card plot-card">
      {plot.error && !plot.data ? (
        <>
          <p class="plot-title">{of.title}</p>
          <Failure error={plot.error} again={plot.reload} />
        </>
      ) : plot.data ? (
        <Plot title={of.title} unit={UNITS[of.unit] ?? of.unit} series={series} range={span} height={height} />
      ) : (
        <figure class="plot" aria-busy="true">
          <figcaption>
            <span class="plot-title">{of.title}</span>
          </figcaption>
          <div style={{ height: `${height + 22}px` }} />
        </figure>
      )}
    </div>
  );
}

function unique(series: PlotData["series"]): Series[] {
  const seen = new Map<string, number>();
  return series.map(({ labels, points }) => {
    const name = nameOf(labels);
    const nth = (seen.get(name) ?? 0) + 1;
    seen.set(name, nth);
    return { label: nth > 1 ? `${name} (${nth})` : name, points };
  });
}

export function Plots() {
  useTitle("Plots");
  const list = useLoad((aborted) => get<PlotList>("plots", aborted), []);
  const range = Number(params.value.get("range")) || 900;
  const word = (params.value.get("q") ?? "").toLowerCase();
  return (
    <>
      <Head title="Plots" />
      <Shown of={list} lines={8}>
        {(data) => {
          const found = data.items.filter((one) => `${one.title} ${one.group}`.toLowerCase().includes(word));
          const groups = [...new Set(found.map((one) => one.group))];
          return (
            <>
              <div class="filters">
                <Search label="Search plots" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} />
                <div class="choice" role="group" aria-label="Range">
                  {data.ranges.map((one) => (
                    <button key={one} type="button" aria-pressed={one === range} onClick={() => setParams({ range: String(one) })}>
                      {duration(one).replace(/ 0 (s|min|h)$/, "")}
                    </button>
                  ))}
                </div>
                <span class="muted small">{data.prometheus ? "from Prometheus" : "from this process, since it started"}</span>
              </div>
              {groups.length === 0 && <Empty title="No plot fits" />}
              {groups.map((group) => (
                <section key={group} aria-label={group} class="plot-group">
                  <h2>{group}</h2>
                  <div class="plots">
                    {found.filter((one) => one.group === group).map((one) => (
                      <PlotOf key={one.id} of={one} range={range} />
                    ))}
                  </div>
                </section>
              ))}
            </>
          );
        }}
      </Shown>
    </>
  );
}
