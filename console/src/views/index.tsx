import type { VNode } from "preact";
import { Things } from "./things";

/** The view of an address; what follows the first segment is the view's own. */
export function viewOf(head: string, rest: string[]): VNode {
  void rest;
  void head;
  return <Things />;
}
