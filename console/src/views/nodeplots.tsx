// What the gateway's own plots say of one node: the series that name it.
import { useMemo } from "preact/hooks";
import { get, query, seg } from "../api";
import { useLoad } from "../hooks";
import { Plot, type Series } from "../ui/plot";
import { nameOf, type PlotInfo } from "./plots";

interface PlotData {
  series: { labels: Record<string, string>; points: [number, number | null][] }[];
}

export function NodePlots({ node }: { node: string }) {
  const found = useLoad(async (aborted) => {
    const { items } = await get<{ items: PlotInfo[] }>("plots", aborted);
    const edge = items.filter((one) => /edge|fleet|link|hub/i.test(`${one.group} ${one.id}`)).slice(0, 8);
    const all = await Promise.all(edge.map(async (one) => ({ one, data: await get<PlotData>(`plots/${seg(one.id)}${query({ range: 900 })}`, aborted) })));
    return all.map(({ one, data }) => ({ one, series: data.series.filter((line) => Object.values(line.labels).includes(node)) })).filter(({ series }) => series.length > 0);
  }, [node], 10_000);
  const plots = useMemo(() => (found.data ?? []).map(({ one, series }) => ({ one, series: series.map((line): Series => ({ label: nameOf(line.labels), points: line.points })) })), [found.data]);
  if (plots.length === 0) return null;
  return (
    <section class="plots" aria-label="Plots">
      {plots.map(({ one, series }) => (
        <div class="card" key={one.id}>
          <Plot title={one.title} unit={one.unit} series={series} height={150} />
        </div>
      ))}
    </section>
  );
}
