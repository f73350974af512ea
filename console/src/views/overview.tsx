// Health, counts and the main plots.
import { get } from "../api";
import { useLoad, useTitle } from "../hooks";
import { href } from "../router";
import { isOperator, parts } from "../state";
import { count, duration } from "../text";
import { Card, Facts, Head, Shown, State, Text } from "../ui/parts";
import { PlotOf, type PlotInfo } from "./plots";

interface Module {
  name: string;
  up: boolean;
  facts: Record<string, unknown>;
}

interface OverviewData {
  version: string;
  started: number;
  uptime: number;
  healthy: boolean;
  demo?: boolean;
  mode: Record<string, string>;
  modules?: Module[];
  endpoints?: Record<string, string>;
  versions: Record<string, string>;
  counts?: Record<string, number | null | undefined>;
}

const TILES: [string, string, string, string?][] = [
  ["nodes", "Nodes", "fleet", "nodes_ready"],
  ["devices", "Devices", "devices", "devices_online"],
  ["things", "Things", "things"],
  ["pods", "Pods", "workloads"],
  ["tenants", "Tenants", "registry"],
  ["discovered", "Discovered", "discovered"],
];

const OF: Record<string, string> = { nodes_ready: "ready", devices_online: "online" };

/** What is counted for who looks; the rest is left out. */
const tilesOf = (counts: Record<string, number | null | undefined>) =>
  TILES.flatMap(([id, title, path, part]) => {
    const much = counts[id];
    return typeof much === "number" ? [{ id, title, path, much, part, good: (part && counts[part]) ?? null }] : [];
  });

export function Overview() {
  useTitle("Overview");
  const overview = useLoad((aborted) => get<OverviewData>("overview", aborted), [isOperator.value], 5000);
  return (
    <>
      <Head title="Overview" extra={overview.data && <Health of={overview.data} />} />
      <Shown of={overview} lines={8}>
        {(data) => (
          <>
            <ul class="tiles">
              {tilesOf(data.counts ?? {}).map(({ id, title, path, much, part, good }) => (
                <li key={id}>
                  <a class="tile" href={href(path)}>
                    <span class="tile-title">{title}</span>
                    <span class="tile-number">{count(much)}</span>
                    <span class="tile-part">{part && typeof good === "number" ? <Part of={good} all={much} word={OF[part]!} /> : " "}</span>
                  </a>
                </li>
              ))}
            </ul>
            {isOperator.value && parts.value["plots"] && <MainPlots />}
            <div class="cards">
              {data.modules && (
                <Card title="Modules">
                  <ul class="modules">
                    {[...data.modules].sort((a, b) => Number(a.up) - Number(b.up) || (a.name < b.name ? -1 : 1)).map((one) => (
                      <li key={one.name}>
                        <State tone={one.up ? "ok" : "bad"}>
                          <Text of={one.name} max={60} />
                        </State>
                        {!one.up && <span class="small bad-text">down</span>}
                      </li>
                    ))}
                  </ul>
                </Card>
              )}
              {data.endpoints && (
                <Card title="Addresses">
                  <Facts of={Object.entries(data.endpoints).map(([name, address]) => [name, <Text of={address} mono />])} />
                </Card>
              )}
              <Card title="Versions">
                <Facts of={[["twinspan", data.version], ...Object.entries(data.versions ?? {}).map(([name, version]): [string, string] => [name, version]), ...Object.entries(data.mode ?? {}).map(([name, mode]): [string, string] => [`${name} is`, mode])]} />
              </Card>
            </div>
          </>
        )}
      </Shown>
    </>
  );
}

const Health = ({ of }: { of: OverviewData }) => (
  <span class="row-inline">
    <State tone={of.healthy ? "ok" : "bad"}>{of.healthy ? "healthy" : "not healthy"}</State>
    <span class="muted">up for {duration(of.uptime)}</span>
    {of.demo && <State tone="warn">sample data and passwords</State>}
  </span>
);

const Part = ({ of, all, word }: { of: number; all: number; word: string }) => (of === all ? <State tone="ok">all {word}</State> : <State tone="warn">{`${count(of)} ${word}`}</State>);

const MAIN = ["uploads", "commands", "thing-commands", "http", "nodes", "reports"];

function MainPlots() {
  const list = useLoad((aborted) => get<{ items: PlotInfo[] }>("plots", aborted), []);
  const main = MAIN.flatMap((id) => list.data?.items.filter((one) => one.id === id) ?? []);
  return (
    <section class="plots main-plots" aria-label="Main plots">
      {main.map((one) => (
        <PlotOf key={one.id} of={one} range={900} height={130} />
      ))}
    </section>
  );
}
