// One node.
import { get, query, seg } from "../api";
import { useLoad, useTitle } from "../hooks";
import { type FleetNode, linkChanges, nodes } from "../live";
import { href } from "../router";
import { parts } from "../state";
import { bytes, pretty, shown } from "../text";
import { Card, Copy, Empty, Facts, Head, Shown, State, Text, When } from "../ui/parts";
import { Table } from "../ui/table";
import { type Device, DEVICE_COLUMNS } from "./devices";
import { linkOf, LinkState } from "./fleet";
import { PlotOf, type PlotList } from "./plots";
import { type Pod, POD_COLUMNS, type Workloads } from "./workloads";

interface FullNode extends FleetNode {
  object: unknown;
  conditions: { type: string; status: string; reason: string; message: string; since: number | null }[];
  capacity: Record<string, string>;
  certificates: { valid: number; revoked_at: number | null } | null;
}

const CAPACITY: [string, string][] = [["cpu", "CPU"], ["memory", "memory"], ["ephemeral-storage", "disk"], ["pods", "pods"]];
const BINARY: Record<string, number> = { Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40 };

/** Kubernetes' quantities in words; what is not there at all is left out. */
function capacity(of: Record<string, string>): string {
  const rest = Object.keys(of).filter((name) => of[name] !== "0" && !CAPACITY.some(([known]) => known === name));
  const all: [string, string][] = [...CAPACITY.filter(([name]) => of[name] !== undefined), ...rest.map((name): [string, string] => [name, name])];
  return all.map(([name, word]) => {
    const [, much, unit] = /^(\d+)([KMGT]i)$/.exec(of[name]!) ?? [];
    const text = much ? bytes(Number(much) * BINARY[unit!]!) : of[name];
    return name === "cpu" || name === "pods" ? `${text} ${word}` : `${word} ${text}`;
  }).join(", ") || "–";
}

function NodePlots({ node }: { node: string }) {
  const list = useLoad((aborted) => get<PlotList>("plots", aborted), []);
  return <section class="plots node-plots" aria-label="Plots of the node">{(list.data?.nodes ?? []).map((one) => <PlotOf key={one.id} of={one} range={900} height={100} node={node} />)}</section>;
}

const GOOD: Record<string, string> = { Ready: "True" };

export function NodePage({ name }: { name: string }) {
  useTitle(shown(name, 60));
  const live = nodes.value?.get(name);
  const node = useLoad((aborted) => get<FullNode>(`nodes/${seg(name)}`, aborted), [name, live?.ready, live?.link?.connected], 15_000);
  const devices = useLoad((aborted) => get<{ items: Device[]; total: number }>(`devices${query({ node: name, limit: 500 })}`, aborted), [name, live?.devices_online, live?.devices], 15_000);
  const pods = useLoad((aborted) => get<Workloads>("workloads", aborted), [name, live?.pods], 15_000);
  const links = linkChanges.value.filter((one) => one.node === name);
  return (
    <>
      <Head kind="Node" title={<Text of={name} max={100} />} extra={live && <LinkState of={live} />}>
        <Copy label="kubectl" text={`kubectl get node ${name} -o yaml`} />
        {node.data && <Copy label="JSON" text={() => JSON.stringify(node.data!.object, null, 2)} />}
      </Head>
      <Shown of={node} lines={8}>
        {(data) => {
          const state = { ...data, ...live };
          return (
            <>
              <Facts
                of={[
                  ["Link", <><LinkState of={state} /> <When at={state.link?.since} /></>],
                  ["Last heartbeat", <When at={state.heartbeat} both />],
                  ["Address", state.address && <Text of={state.address} mono />],
                  ["Version", <Text of={state.version} />],
                  ["System", <Text of={`${state.os} ${state.architecture}`} />],
                  ["Region / zone", <Text of={[state.region, state.zone].filter(Boolean).join(" / ") || "–"} />],
                  ["Group", <Text of={state.group ?? "–"} />],
                  ["Location", state.location ? state.location.join(", ") : null],
                  ["Takes new pods", state.cordoned ? <State tone="warn">no, it is cordoned</State> : "yes"],
                  ["Capacity", <Text of={capacity(data.capacity ?? {})} max={160} />],
                  ["Certificates", data.certificates && <><State tone={data.certificates.valid > 0 ? "ok" : "bad"}>{data.certificates.valid} valid</State>{data.certificates.revoked_at !== null && <span class="small muted"> others revoked <When at={data.certificates.revoked_at} /></span>}</>],
                  ["Joined", <When at={state.created} both />],
                ]}
              />
              <div class="cards">
                <Card title="Conditions">
                  {data.conditions.length === 0 ? (
                    <p class="muted">None reported.</p>
                  ) : (
                    <ul class="plain">
                      {data.conditions.map((one) => (
                        <li key={one.type}>
                          <State tone={one.status === "Unknown" ? "idle" : one.status === (GOOD[one.type] ?? "False") ? "ok" : "bad"}>
                            <Text of={`${one.type}: ${one.status}`} max={80} />
                          </State>
                          <div class="small muted">
                            <Text of={[one.reason, one.message].filter(Boolean).join(": ")} max={300} /> <When at={one.since} />
                          </div>
                        </li>
                      ))}
                    </ul>
                  )}
                </Card>
                <Card title="Link history">
                  <ul class="plain">
                    {links.slice(0, 30).map((one) => (
                      <li key={`${one.at}${one.connected}`}>
                        <State tone={one.connected ? "ok" : "bad"}>{one.connected ? "connected" : "link lost"}</State> <When at={one.at} both />
                      </li>
                    ))}
                    <li class="muted small">
                      {state.link?.since ? <>{linkOf(state)[1]} since <When at={state.link.since} both />. </> : null}
                      {links.length === 0 && "No change since this page was opened."}
                    </li>
                  </ul>
                </Card>
              </div>
              {data.link && parts.value["plots"] && <NodePlots node={name} />}
              <Card title="Devices" wide>
                <Shown of={devices}>{(found) => <Table label="Devices of the node" rows={found.items} columns={DEVICE_COLUMNS.filter((one) => one.id !== "node")} keyOf={(row) => `${row.namespace}/${row.name}`} hrefOf={(row) => href("devices", row.namespace, row.name)} total={found.total} seen={10} empty={<Empty title="No devices on this node" />} />}</Shown>
              </Card>
              <Card title="Pods" wide>
                <Shown of={pods}>{(found) => <Table<Pod> label="Pods of the node" rows={found.pods.filter((one) => one.node === name)} columns={POD_COLUMNS.filter((one) => one.id !== "node")} keyOf={(row) => `${row.namespace}/${row.name}`} hrefOf={(row) => href("pods", row.namespace, row.name)} seen={10} empty={<Empty title="No pods on this node" />} />}</Shown>
              </Card>
              <details>
                <summary>The Node as it is</summary>
                <pre class="code" tabIndex={0}>{pretty(data.object)}</pre>
              </details>
            </>
          );
        }}
      </Shown>
    </>
  );
}
