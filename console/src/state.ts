// What the whole page knows: who is signed in, the theme, the time, the width.
import { computed, effect, signal } from "@preact/signals";
import { ApiError, call, CONSOLE, expired } from "./api";

export interface Session {
  user: string;
  operator: boolean;
  ditto: string | null;
  operator_user: string | null;
  expires: number;
  idle: number;
}

export interface Parts {
  [name: string]: boolean;
}

/** undefined: not known yet; null: nobody. */
export const session = signal<Session | null | undefined>(undefined);
export const parts = signal<Parts>({});
export const isOperator = computed(() => session.value?.operator_user != null);
export const isDitto = computed(() => session.value?.ditto != null);

export async function whoIsThere(): Promise<void> {
  try {
    session.value = (await call<Session>("session")).data;
    await readParts();
  } catch (error) {
    if (error instanceof ApiError && error.status === 0) setTimeout(() => void whoIsThere(), 2000);
    else session.value = null;
  }
}

async function readParts(): Promise<void> {
  try {
    parts.value = (await call<{ parts: Parts }>("overview")).data.parts ?? {};
  } catch {
    parts.value = {};
  }
}

export async function signIn(user: string, password: string): Promise<void> {
  const answer = await call<Session>("session", { method: "POST", body: { user, password } });
  session.value = answer.data;
  await readParts();
}

export async function signOut(): Promise<void> {
  await call("session", { method: "DELETE" }).catch(() => undefined);
  session.value = null;
}

effect(() => {
  if (expired.value === 0 || !session.peek()) return;
  // A 401 of one call may be that call's own affair: ask before throwing somebody out.
  fetch(`${CONSOLE}session`, { headers: { "x-twinspan-console": "1" } })
    .then((answer) => answer.status === 401 && (session.value = null))
    .catch(() => undefined);
});

export const now = signal(Date.now());
setInterval(() => document.hidden || (now.value = Date.now()), 1000);

export type Width = "narrow" | "mid" | "wide";
const NARROW = matchMedia("(max-width: 700px)");
const MID = matchMedia("(max-width: 1150px)");
const measured = (): Width => (NARROW.matches ? "narrow" : MID.matches ? "mid" : "wide");
export const width = signal<Width>(measured());
for (const media of [NARROW, MID]) media.addEventListener("change", () => (width.value = measured()));

const ROWS = (): number => Math.max(18, Math.floor((innerHeight - 270) / 34));
/** How many rows of a table fit into the window. */
export const rowsThatFit = signal(ROWS());
addEventListener("resize", () => (rowsThatFit.value = ROWS()));

export type Theme = "auto" | "light" | "dark";
const DARK = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(DARK.matches);
DARK.addEventListener("change", () => (systemDark.value = DARK.matches));
export const theme = signal<Theme>((document.documentElement.dataset["theme"] as Theme | undefined) ?? "auto");
export const isDark = computed(() => (theme.value === "auto" ? systemDark.value : theme.value === "dark"));
effect(() => {
  const root = document.documentElement;
  if (theme.value === "auto") delete root.dataset["theme"];
  else root.dataset["theme"] = theme.value;
  remember("theme", theme.value);
});

export function remember(name: string, value: string): void {
  try {
    localStorage.setItem(`twinspan.${name}`, value);
  } catch {
    // a browser that keeps nothing is served as well
  }
}

export function remembered(name: string): string | null {
  try {
    return localStorage.getItem(`twinspan.${name}`);
  } catch {
    return null;
  }
}

export interface Notice {
  id: number;
  text: string;
  tone: "ok" | "bad" | "info";
}

export const notices = signal<Notice[]>([]);
let lastNotice = 0;

export function tell(text: string, tone: Notice["tone"] = "ok"): void {
  const id = ++lastNotice;
  notices.value = [...notices.value.slice(-3), { id, text, tone }];
  setTimeout(() => dismiss(id), tone === "bad" ? 12_000 : 5_000);
}

export const dismiss = (id: number): void => {
  notices.value = notices.value.filter((one) => one.id !== id);
};
