// Lines over time. The drawing library comes with the first plot that is seen.
import { useEffect, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";
import { isDark } from "../state";
import { absolute, shown, withUnit } from "../text";

export interface Series {
  label: string;
  points: [number, number | null][];
}

interface Props {
  title: string;
  unit: string;
  series: Series[];
  range?: [number, number];
  height?: number;
}

const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3]];

export function Plot({ title, unit, series, range, height = 180 }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const latest = useRef({ series, range });
  latest.current = { series, range };
  const [isTable, setTable] = useState(false);
  const shape = series.map((one) => one.label).join("\n");
  const dark = isDark.value;

  useEffect(() => {
    if (isTable || series.length === 0) return undefined;
    let isGone = false;
    let watcher: ResizeObserver | undefined;
    void import("./chart").then(({ make }) => {
      if (isGone || !box.current) return;
      const target = box.current;
      chart.current = make(target, { unit, labels: series.map((one) => shown(one.label, 60)), height, dashes: DASHES });
      set(chart.current, latest.current.series, latest.current.range);
      watcher = new ResizeObserver(() => chart.current?.setSize({ width: target.clientWidth, height }));
      watcher.observe(target);
    });
    return () => {
      isGone = true;
      watcher?.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [shape, unit, dark, isTable, height]);
  useEffect(() => {
    if (chart.current && chart.current.series.length === series.length + 1) set(chart.current, series, range);
  }, [series, range]);

  const summary = series.map((one) => `${shown(one.label, 60)} ${withUnit(lastOf(one), unit)}`).slice(0, 6).join(", ");
  return (
    <figure class="plot">
      <figcaption>
        <span class="plot-title">{title}</span>
        <button type="button" class="quiet small" aria-pressed={isTable} onClick={() => setTable(!isTable)} aria-label={`${title} as a table`}>
          Table
        </button>
      </figcaption>
      {series.length === 0 ? (
        <p class="plot-none muted" style={{ height: `${height}px` }}>
          Nothing was measured in this time.
        </p>
      ) : isTable ? (
        <Numbers series={series} unit={unit} title={title} height={height} />
      ) : (
        <div ref={box} class="plot-box" style={{ minHeight: `${height}px` }} role="img" aria-label={`${title}; last: ${summary}`} />
      )}
      {series.length > 0 && !isTable && <Legend series={series} unit={unit} />}
    </figure>
  );
}

const lastOf = (one: Series): number | null => {
  for (let at = one.points.length - 1; at >= 0; at -= 1) if (one.points[at]![1] !== null) return one.points[at]![1];
  return null;
};

const Legend = ({ series, unit }: { series: Series[]; unit: string }) => (
  <ul class="legend">
    {series.map((one, at) => (
      <li key={one.label}>
        <svg viewBox="0 0 18 4" class={`line-${at % 8}`} aria-hidden="true">
          <line x1="0" y1="2" x2="18" y2="2" stroke-dasharray={DASHES[Math.floor(at / 8) % DASHES.length]!.join(" ")} />
        </svg>
        <bdi>{shown(one.label, 60) || "value"}</bdi> <span class="num">{withUnit(lastOf(one), unit)}</span>
      </li>
    ))}
  </ul>
);

function Numbers({ series, unit, title, height }: { series: Series[]; unit: string; title: string; height: number }) {
  const times = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => b - a).slice(0, 200);
  const found = series.map((one) => new Map(one.points));
  return (
    <div class="numbers" style={{ height: `${height}px` }} tabIndex={0} role="region" aria-label={`${title}, numbers`}>
      <table>
        <thead>
          <tr>
            <th scope="col">Time</th>
            {series.map((one) => (
              <th key={one.label} scope="col">
                <bdi>{shown(one.label, 40) || "value"}</bdi>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {times.map((time) => (
            <tr key={time}>
              <th scope="row">{absolute(time * 1000)}</th>
              {found.map((one, at) => (
                <td key={at}>{withUnit(one.get(time), unit)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function set(chart: uPlot, series: Series[], range?: [number, number]): void {
  const times = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
  const columns = series.map((one) => {
    const values = new Map(one.points);
    return times.map((time) => values.get(time) ?? (values.has(time) ? null : undefined));
  });
  chart.setData([times, ...columns] as uPlot.AlignedData, true);
  if (range) chart.setScale("x", { min: range[0], max: range[1] });
}
