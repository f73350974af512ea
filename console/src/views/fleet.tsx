// Nodes: where they are, and whether their links hold.
import { useMemo, useState } from "preact/hooks";
import { useTitle } from "../hooks";
import { type FleetNode, liveState, nodes, nodesError, readNodes } from "../live";
import { href, params, setParams } from "../router";
import { width } from "../state";
import { shown } from "../text";
import { Icon } from "../ui/icons";
import { Empty, Failure, Head, Loading, Search, State, StreamMark, Text, type Tone, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

export function linkOf(node: FleetNode): [Tone, string] {
  if (node.link) return node.link.connected ? ["ok", "connected"] : ["bad", "offline"];
  if (node.ready === null) return ["idle", "unknown"];
  return node.ready ? ["ok", "ready"] : ["bad", "not ready"];
}

export const LinkState = ({ of }: { of: FleetNode }) => {
  const [tone, word] = linkOf(of);
  return <State tone={tone}>{word}</State>;
};

const COLUMNS: Column<FleetNode>[] = [
  { id: "name", title: "Node", cell: (row) => <Text of={row.name} max={80} />, by: (row) => row.name, size: "2.4fr" },
  { id: "link", title: "Link", cell: (row) => <LinkState of={row} />, by: (row) => linkOf(row)[1], size: "7.5rem" },
  { id: "since", title: "Since", cell: (row) => <When at={row.link?.since ?? row.since} />, by: (row) => row.link?.since ?? row.since ?? 0, size: "6.5rem", from: "mid" },
  { id: "ready", title: "Ready", cell: (row) => (row.ready === null ? "unknown" : row.ready ? "yes" : <Text of={`no: ${row.reason}`} />), by: (row) => String(row.ready), size: "6rem", from: "mid" },
  { id: "devices", title: "Devices", cell: (row) => `${row.devices_online} / ${row.devices}`, by: (row) => row.devices, size: "5.5rem", end: true },
  { id: "pods", title: "Pods", cell: (row) => row.pods, by: (row) => row.pods, size: "4.5rem", end: true, from: "mid" },
  { id: "place", title: "Region / zone", cell: (row) => <Text of={[row.region, row.zone].filter(Boolean).join(" / ")} max={60} />, by: (row) => `${row.region} ${row.zone}`, size: "1.4fr", from: "wide" },
  { id: "version", title: "Version", cell: (row) => <Text of={row.version} max={50} />, by: (row) => row.version, size: "1.6fr", from: "wide" },
];

export function Fleet() {
  useTitle("Fleet");
  const word = (params.value.get("q") ?? "").toLowerCase();
  const only = params.value.get("link") ?? "";
  const all = useMemo(() => [...(nodes.value?.values() ?? [])], [nodes.value]);
  const found = useMemo(() => all.filter((one) => isFound(one, word, only)), [all, word, only]);
  if (!nodes.value) return nodesError.value ? <Failure error={nodesError.value} again={() => void readNodes()} /> : <Loading lines={8} />;
  const down = all.filter((one) => linkOf(one)[0] === "bad").length;
  return (
    <>
      <Head title="Fleet" extra={<><p class="muted count" role="status">{all.length} {all.length === 1 ? "node" : "nodes"}{down > 0 && `, ${down} offline`}</p><StreamMark of={liveState.value} /></>} />
      <FleetMap nodes={found} />
      <div class="filters">
        <Search label="Search nodes" placeholder="Name, label, region, address" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} />
        <select aria-label="Link" value={only} onChange={(event) => setParams({ link: event.currentTarget.value })}>
          <option value="">any link</option>
          <option value="ok">connected</option>
          <option value="bad">offline</option>
        </select>
      </div>
      <Table label="Nodes" rows={found} columns={COLUMNS} keyOf={(row) => row.name} hrefOf={(row) => href("fleet", row.name)} sort="name" empty={<Empty title={all.length ? "No node fits" : "No nodes yet"}>{all.length === 0 && "A node appears when an EdgeCore joins: twinspan join."}</Empty>} />
    </>
  );
}

function isFound(one: FleetNode, word: string, only: string): boolean {
  if (only && linkOf(one)[0] !== only) return false;
  if (!word) return true;
  const labels = Object.entries(one.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  return [one.name, one.region, one.zone, one.group, one.address, ...labels].some((text) => text?.toLowerCase().includes(word));
}

const WORLD: Box = { x: 0, y: 0, w: 360, h: 150 };

interface Box {
  x: number;
  y: number;
  w: number;
  h: number;
}

const placed = (node: FleetNode): { x: number; y: number } => ({ x: node.location![1] + 180, y: Math.max(0, Math.min(150, 90 - node.location![0])) });

function boxOf(points: { x: number; y: number }[]): Box {
  const xs = points.map((one) => one.x);
  const ys = points.map((one) => one.y);
  const w = Math.min(360, Math.max(60, (Math.max(...xs) - Math.min(...xs)) * 1.3, ((Math.max(...ys) - Math.min(...ys)) * 1.5 * 360) / 150));
  const h = (w * 150) / 360;
  const x = Math.max(0, Math.min(360 - w, (Math.max(...xs) + Math.min(...xs)) / 2 - w / 2));
  const y = Math.max(0, Math.min(150 - h, (Math.max(...ys) + Math.min(...ys)) / 2 - h / 2));
  return { x, y, w, h };
}

interface Spot {
  x: number;
  y: number;
  nodes: FleetNode[];
  /** Its name would cover another spot. */
  isShort: boolean;
}

/** How large signs and names are, in parts of the map's width (names: of one letter) and height. */
const SIGNS = { wide: { w: 0.03, h: 0.07, letter: 0.0075 }, mid: { w: 0.045, h: 0.1, letter: 0.011 }, narrow: { w: 0.09, h: 0.19, letter: 0.02 } };

/** Nodes that would cover each other are one spot; names that would cover another spot are left out. */
function spotsOf(nodes: FleetNode[], box: Box): Spot[] {
  const SIGN = SIGNS[width.value];
  const spots: Spot[] = [];
  for (const node of nodes) {
    const { x, y } = placed(node);
    const near = spots.find((one) => Math.abs(one.x - x) < box.w * SIGN.w && Math.abs(one.y - y) < box.h * SIGN.h);
    if (near) near.nodes.push(node);
    else spots.push({ x, y, nodes: [node], isShort: false });
  }
  for (const one of spots) {
    if (one.nodes.length > 1) continue;
    const right = box.w * (SIGN.w + SIGN.letter * Math.min(20, one.nodes[0]!.name.length));
    one.isShort = one.x + right > box.x + box.w || spots.some((other) => other !== one && Math.abs(other.y - one.y) < box.h * SIGN.h && other.x > one.x - box.w * SIGN.w && other.x < one.x + right + box.w * 0.01);
  }
  return spots;
}

function FleetMap({ nodes: all }: { nodes: FleetNode[] }) {
  const [isWorld, setWorld] = useState(false);
  const here = all.filter((one) => one.location);
  if (here.length === 0) return all.length > 1 ? <Regions nodes={all} /> : null;
  const box = isWorld ? WORLD : boxOf(here.map(placed));
  const style = { width: `${(360 / box.w) * 100}%`, height: `${(150 / box.h) * 100}%`, left: `${(-box.x / box.w) * 100}%`, top: `${(-box.y / box.h) * 100}%` };
  return (
    <section class="map-card" aria-label="Map">
      <div class="map">
        <div class="map-canvas" style={style}>
          {spotsOf(here, box).map((spot) => (
            <SpotMark key={spot.nodes[0]!.name} spot={spot} />
          ))}
        </div>
        {(isWorld || box.w < 300) && <button type="button" class="map-zoom small" aria-pressed={isWorld} onClick={() => setWorld(!isWorld)}>
          Whole world
        </button>}
      </div>
      {all.length > 1 && <Regions nodes={all} />}
    </section>
  );
}

/** What all of these nodes have in common and the search knows. */
const common = ([first, ...rest]: FleetNode[]): string => [first!.zone, first!.region].find((word, at) => word && rest.every((one) => (at === 0 ? one.zone : one.region) === word)) ?? "";

function SpotMark({ spot }: { spot: Spot }) {
  const down = spot.nodes.filter((one) => linkOf(one)[0] === "bad").length;
  const tone = down === 0 ? (spot.nodes.some((one) => linkOf(one)[0] === "idle") ? "idle" : "ok") : down === spot.nodes.length ? "bad" : "warn";
  const style = { left: `${(spot.x / 360) * 100}%`, top: `${(spot.y / 150) * 100}%` };
  const name = shown(spot.nodes[0]!.name, 40);
  const names = `${spot.nodes.slice(0, 6).map((one) => shown(one.name, 40)).join(", ")}${spot.nodes.length > 6 ? ", …" : ""}`;
  const what = spot.nodes.length === 1 ? `${name}: ${linkOf(spot.nodes[0]!)[1]}` : `${spot.nodes.length} nodes, ${down} offline: ${names}`;
  const target = spot.nodes.length === 1 ? href("fleet", spot.nodes[0]!.name) : `${href("fleet")}?q=${encodeURIComponent(common(spot.nodes))}`;
  return (
    <a class={`spot ${tone}`} style={style} href={target} aria-label={what} title={what}>
      <Icon of={tone} />
      {!spot.isShort && <span class="spot-name">{spot.nodes.length === 1 ? name : spot.nodes.length}</span>}
    </a>
  );
}

function Regions({ nodes: all }: { nodes: FleetNode[] }) {
  const groups = new Map<string, FleetNode[]>();
  for (const node of all) {
    const name = [node.region, node.zone].filter(Boolean).join(" / ") || node.group || "no place known";
    groups.set(name, [...(groups.get(name) ?? []), node]);
  }
  return (
    <ul class="regions" aria-label="Nodes by region">
      {[...groups].sort(([a], [b]) => a.localeCompare(b)).map(([name, members]) => {
        const down = members.filter((one) => linkOf(one)[0] === "bad").length;
        return (
          <li key={name}>
            <a class="region-name" href={`${href("fleet")}?q=${encodeURIComponent(members[0]!.zone ?? members[0]!.region ?? members[0]!.group ?? "")}`}><Text of={name} max={60} /></a>
            <State tone={down === 0 ? "ok" : down === members.length ? "bad" : "warn"}>{`${members.length - down} of ${members.length}`}</State>
          </li>
        );
      })}
    </ul>
  );
}
