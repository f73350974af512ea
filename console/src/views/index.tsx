import type { VNode } from "preact";
import { Commands } from "./commands";
import { ConnectionPage, Connections } from "./connections";
import { DevicePage } from "./device";
import { Devices } from "./devices";
import { DiscoveredList } from "./discovered";
import { Fleet } from "./fleet";
import { NodePage } from "./node";
import { Overview } from "./overview";
import { Plots } from "./plots";
import { PodPage } from "./pod";
import { Registry, RegistryDevice, TenantPage } from "./registry";
import { TailView } from "./tail";
import { ThingPage } from "./thing";
import { Things } from "./things";
import { WorkloadList } from "./workloads";

type View = (rest: string[]) => VNode;

const VIEWS: Record<string, View> = {
  "": () => <Overview />,
  things: ([id]) => (id ? <ThingPage key={id} id={id} /> : <Things />),
  commands: () => <Commands />,
  connections: ([id]) => (id ? <ConnectionPage key={id} id={id} /> : <Connections />),
  fleet: ([name]) => (name ? <NodePage key={name} name={name} /> : <Fleet />),
  devices: ([namespace, name]) => (namespace && name ? <DevicePage key={`${namespace}/${name}`} namespace={namespace} name={name} /> : <Devices />),
  discovered: () => <DiscoveredList />,
  workloads: () => <WorkloadList />,
  pods: ([namespace, name]) => (namespace && name ? <PodPage key={`${namespace}/${name}`} namespace={namespace} name={name} /> : <WorkloadList />),
  tail: () => <TailView />,
  registry: ([tenant, device]) => (tenant ? device ? <RegistryDevice key={`${tenant}/${device}`} tenant={tenant} device={device} /> : <TenantPage key={tenant} tenant={tenant} /> : <Registry />),
  plots: () => <Plots />,
};

/** The view of an address; what follows the first segment is the view's own. */
export const viewOf = (head: string, rest: string[]): VNode => VIEWS[head]!(rest);
