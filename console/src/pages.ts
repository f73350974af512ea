// The table of views: where each is found, who sees it and by which key it is reached.
import { isDitto, isOperator, parts } from "./state";

export interface Page {
  path: string;
  title: string;
  group: string;
  key: string;
  needs: "any" | "ditto" | "operator";
  part?: string;
}

export const PAGES: Page[] = [
  { path: "", title: "Overview", group: "", key: "o", needs: "any" },
  { path: "things", title: "Things", group: "Twins", key: "t", needs: "ditto", part: "things" },
  { path: "commands", title: "Commands", group: "Twins", key: "c", needs: "ditto", part: "things" },
  { path: "connections", title: "Connections", group: "Twins", key: "x", needs: "operator", part: "things" },
  { path: "fleet", title: "Fleet", group: "Edge", key: "f", needs: "operator", part: "kube" },
  { path: "devices", title: "Devices", group: "Edge", key: "d", needs: "operator", part: "kube" },
  { path: "discovered", title: "Discovered", group: "Edge", key: "i", needs: "operator", part: "kube" },
  { path: "workloads", title: "Workloads", group: "Edge", key: "w", needs: "operator", part: "kube" },
  { path: "tail", title: "Messages", group: "Messaging", key: "m", needs: "operator", part: "tail" },
  { path: "registry", title: "Registry", group: "Messaging", key: "r", needs: "operator", part: "registry" },
  { path: "plots", title: "Plots", group: "Runtime", key: "p", needs: "operator", part: "plots" },
];

/** Why a page cannot be shown, or null. */
export function barrier(page: Page): "ditto" | "operator" | "part" | null {
  if (page.needs === "operator" && !isOperator.value) return "operator";
  if (page.needs === "ditto" && !isDitto.value) return "ditto";
  if (page.part && parts.value[page.part] === false) return "part";
  return null;
}
