import uPlot from "uplot";
import { withUnit } from "../text";

interface Made {
  unit: string;
  labels: string[];
  height: number;
  dashes: number[][];
}

/** A chart in the colours of the page. */
export function make(target: HTMLElement, { unit, labels, height, dashes }: Made): uPlot {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
  const options: uPlot.Options = {
    width: target.clientWidth || 300,
    height,
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    plugins: [hover(unit)],
    scales: { x: { range: stretch }, y: { range: (_chart, low, high) => bounds(low, high) } },
    axes: [
      { ...axis, size: 26, space: 70, values: [[86400, "{YYYY}-{MM}-{DD}", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]] as uPlot.Axis.Values },
      { ...axis, size: 62, space: 24, values: (_chart, splits) => splits.map((split) => withUnit(split, unit)) },
    ],
    series: [{}, ...labels.map((label, at) => ({ label, stroke: colour(`--line-${at % 8}`), width: 1.5, dash: dashes[Math.floor(at / 8) % dashes.length]!, spanGaps: false, points: { show: true, size: 4, filter: lone } }))],
  };
  return new uPlot(options, [[], ...labels.map(() => [])] as unknown as uPlot.AlignedData, target);
}

/** Points without a neighbour: no line shows them. */
function lone(chart: uPlot, nth: number): number[] {
  const values = chart.data[nth]!;
  const isThere = (at: number) => values[at] !== null && values[at] !== undefined;
  return [...values.keys()].filter((at) => isThere(at) && !isThere(at - 1) && !isThere(at + 1));
}

/** A single point stands in the middle of a minute: the library gives it 86,400,000 s, by its clock of ms. */
function stretch(chart: uPlot, low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) return [Date.now() / 1000 - 60, Date.now() / 1000];
  const times = chart.data[0];
  return times.length === 1 && low === times[0] ? [low - 30, low + 30] : [low, high];
}

function bounds(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  const from = low >= 0 && (low < high * 0.9 || low === high) ? 0 : low;
  if (from === high) return high === 0 ? [0, 1] : [from * 1.1, 0];
  return [from, high + (high - from) * 0.08];
}

/** A box beside the cursor with the values at that time. */
function hover(unit: string): uPlot.Plugin {
  const box = document.createElement("div");
  box.className = "plot-hover";
  box.hidden = true;
  return {
    hooks: {
      init: (chart) => void chart.over.append(box),
      setCursor: (chart) => {
        const at = chart.cursor.idx;
        box.hidden = at === null || at === undefined || (chart.cursor.left ?? -1) < 0;
        if (box.hidden || at === null || at === undefined) return;
        const time = chart.data[0][at];
        if (time === undefined) return;
        const lines = chart.series.slice(1).map((one, nth) => `${String(one.label)}  ${withUnit(chart.data[nth + 1]![at] as number | null, unit)}`);
        box.textContent = [new Date(time * 1000).toLocaleTimeString("sv"), ...lines.slice(0, 10)].join("\n");
        const left = chart.cursor.left ?? 0;
        const isRight = left > chart.over.clientWidth / 2;
        box.style.left = isRight ? "auto" : `${left + 12}px`;
        box.style.right = isRight ? `${chart.over.clientWidth - left + 12}px` : "auto";
      },
    },
  };
}
