// Text from outside is never trusted to be short, printable or to run from left to right.

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g;
const INVISIBLE = /[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** What is shown of a text: cut, with controls and direction marks made visible. */
export function shown(text: string, max = 200, keepLines = false): string {
  const cut = text.length > max ? text.slice(0, max) : text;
  const visible = cut
    .replace(LONE, "\ufffd")
    .replace(CONTROL, (mark) => (keepLines && (mark === "\n" || mark === "\t") ? mark : symbol(mark)))
    .replace(INVISIBLE, (mark) => `\u27e8U+${mark.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
  return cut === text ? visible : `${visible}\u2026 (${(text.length - max).toLocaleString("en")} more)`;
}

function symbol(mark: string): string {
  const code = mark.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  return code === 0x7f ? "\u2421" : `\u27e8${code.toString(16).toUpperCase()}\u27e9`;
}

/** A JSON value in one line. */
export function inline(value: unknown, max = 120): string {
  if (typeof value === "string") return shown(value, max);
  if (typeof value === "number") return String(value);
  if (value === undefined) return "";
  return shown(JSON.stringify(value), max);
}

/** A JSON value over several lines; what is longer than `max` characters is cut. */
export function pretty(value: unknown, max = 50_000): string {
  return shown(JSON.stringify(value, null, 2) ?? "", max, true);
}

const PLAIN = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export function number(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e15)) return value.toExponential(3);
  return PLAIN.format(value);
}

export const count = (value: number): string => (Math.abs(value) < 100_000 ? PLAIN.format(value) : SHORT.format(value));

const STEPS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(value: number): string {
  let at = 0;
  while (value >= 1024 && at < STEPS.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${PLAIN.format(at === 0 ? value : Math.round(value * 10) / 10)} ${STEPS[at]}`;
}

/** A value of a plot with its unit. */
export function withUnit(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (unit === "bytes" || unit === "B") return bytes(value);
  if (unit === "seconds" || unit === "s") return duration(value);
  if (unit === "percent" || unit === "%") return `${number(Math.round(value * 10) / 10)} %`;
  const rounded = Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3));
  return unit && unit !== "short" && unit !== "count" ? `${count(rounded)} ${unit}` : count(rounded);
}

export function duration(seconds: number): string {
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${number(Math.round(seconds * 1e7) / 10)} µs`;
  if (size < 1) return `${number(Math.round(seconds * 1e4) / 10)} ms`;
  if (size < 60) return `${number(Math.round(seconds * 10) / 10)} s`;
  if (size < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (size < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** How long ago, in few letters. */
export function ago(then: number, now: number): string {
  const seconds = Math.round((now - then) / 1000);
  if (seconds < -5) return `in ${span(-seconds)}`;
  return seconds < 5 ? "just now" : `${span(seconds)} ago`;
}

function span(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

const WHEN = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });

export const absolute = (then: number): string => WHEN.format(then);

export function instant(text: unknown): number | null {
  if (typeof text === "number") return text > 1e11 ? text : text * 1000;
  if (typeof text !== "string" || text === "") return null;
  if (/^\d{10,13}$/.test(text)) return text.length > 11 ? Number(text) : Number(text) * 1000;
  const then = Date.parse(text);
  return Number.isNaN(then) ? null : then;
}

export function hexLines(data: Uint8Array, max = 4096): string {
  const lines: string[] = [];
  for (let at = 0; at < Math.min(data.length, max); at += 16) {
    const row = data.subarray(at, at + 16);
    const hex = [...row].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const plain = [...row].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${plain}`);
  }
  if (data.length > max) lines.push(`… (${bytes(data.length - max)} more)`);
  return lines.join("\n");
}

export function fromBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return new TextEncoder().encode(text);
  }
}
