// A thing as plain data: merging events into it, its leaves, what is wanted and not yet there.
import type { Json, JsonObject } from "./api";

export interface Feature {
  definition?: string[];
  properties?: JsonObject;
  desiredProperties?: JsonObject;
}

export interface Thing {
  thingId: string;
  policyId?: string;
  definition?: string | null;
  attributes?: JsonObject;
  features?: Record<string, Feature>;
  _revision?: number;
  _modified?: string;
  _created?: string;
}

export interface Context {
  topic?: string;
  path?: string;
  value?: Json;
}

export interface ThingEvent extends Partial<Thing> {
  _context?: Context;
}

export const isObject = (value: unknown): value is JsonObject => typeof value === "object" && value !== null && !Array.isArray(value);

/** JSON merge patch (RFC 7396); neither argument is changed. */
export function merged(target: Json | undefined, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const result: JsonObject = { ...(isObject(target) ? target : {}) };
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else put(result, name, merged(own(result, name), value));
  }
  return result;
}

const own = (from: JsonObject, name: string): Json | undefined => (Object.hasOwn(from, name) ? from[name] : undefined);

/** Set a member, also one with a name such as `__proto__`. */
function put(into: JsonObject, name: string, value: Json): void {
  Object.defineProperty(into, name, { value, enumerable: true, configurable: true, writable: true });
}

export const pointer = (path: string): string[] =>
  path.split("/").slice(1).filter((one, at, all) => one !== "" || at < all.length - 1).map((one) => one.replace(/~1/g, "/").replace(/~0/g, "~"));

export const pathOf = (parts: string[]): string => parts.map((one) => `/${one.replace(/~/g, "~0").replace(/\//g, "~1")}`).join("");

export function at(document: Json | undefined, parts: string[]): Json | undefined {
  let found: Json | undefined = document;
  for (const part of parts) found = isObject(found) ? own(found, part) : Array.isArray(found) ? found[Number(part)] : undefined;
  return found;
}

/** The document with `value` at a place; undefined takes it away. */
export function withAt(document: Json | undefined, parts: string[], value: Json | undefined): Json | undefined {
  const [first, ...rest] = parts;
  if (first === undefined) return value;
  const result: JsonObject = { ...(isObject(document) ? document : {}) };
  const next = withAt(own(result, first), rest, value);
  if (next === undefined) delete result[first];
  else put(result, first, next);
  return result;
}

/** The thing after an event; null when it is gone. */
export function applied(thing: Thing, event: ThingEvent): Thing | null {
  const { _context: context, ...partial } = event;
  const action = context?.topic?.split("/").pop() ?? "";
  const parts = pointer(context?.path ?? "/");
  if (action === "deleted" && parts.length === 0) return null;
  let next: Json | undefined = thing as unknown as Json;
  if (action === "deleted") next = withAt(next, parts, undefined);
  else if (action === "merged") next = merged(next, partial as unknown as Json);
  else if (action) next = withAt(next, parts, at(partial as unknown as Json, parts));
  if (action === "merged" && context?.value !== undefined) next = dropped(next, parts, context.value);
  const result = (isObject(next) ? next : thing) as unknown as Thing;
  return { ...result, thingId: thing.thingId, _revision: event._revision ?? thing._revision, _modified: event._modified ?? thing._modified };
}

/** What a merge took away: the nulls of its patch. */
function dropped(document: Json | undefined, parts: string[], patch: Json): Json | undefined {
  if (patch === null) return withAt(document, parts, undefined);
  if (!isObject(patch)) return document;
  return Object.entries(patch).reduce((all, [name, value]) => dropped(all, [...parts, name], value), document);
}

export interface Leaf {
  path: string[];
  value: Json;
}

/** The values at the ends of a document, at most `max` of them. */
export function leaves(document: Json | undefined, max = 500, depth = 6): Leaf[] {
  const found: Leaf[] = [];
  const walk = (value: Json, path: string[]) => {
    if (found.length >= max) return;
    if (isObject(value) && path.length < depth && Object.keys(value).length > 0) {
      for (const [name, below] of Object.entries(value)) walk(below, [...path, name]);
    } else found.push({ path, value });
  };
  if (document !== undefined) walk(document, []);
  return found.filter((one) => one.path.length > 0);
}

export const isSame = (a: Json | undefined, b: Json | undefined): boolean => {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((one, nth) => isSame(one, b[nth]));
  if (!isObject(a) || !isObject(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && isSame(a[name], b[name]));
};

/** Where an event changed something, as paths of leaves. */
export function changedPaths(event: ThingEvent): string[] {
  const { attributes, features } = event;
  const part = { ...(attributes ? { attributes } : {}), ...(features ? { features } : {}) } as unknown as Json;
  return leaves(part, 200, 8).map((one) => pathOf(one.path));
}
