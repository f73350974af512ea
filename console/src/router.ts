// Addresses below /console: every view has one, and what it is filtered by stands in it.
import { computed, signal } from "@preact/signals";

const BASE = "/console";
const read = () => ({ path: location.pathname.replace(/^\/console/, "") || "/", search: location.search });

export const place = signal(read());
export const segments = computed(() => place.value.path.split("/").filter(Boolean).map(decoded));
export const params = computed(() => new URLSearchParams(place.value.search));

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const href = (...parts: string[]): string => `${BASE}/${parts.map(encodeURIComponent).join("/")}`;

export const focusContent = (): void => document.getElementById("main")?.focus({ preventScroll: true });

export function go(address: string, replace = false): void {
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  const before = place.value.path;
  place.value = read();
  if (place.value.path !== before) {
    scrollTo(0, 0);
    requestAnimationFrame(focusContent);
  }
}

/** Change parameters of the address; empty ones leave it. */
export function setParams(changes: Record<string, string | undefined>, replace = true): void {
  const next = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) next.set(name, value);
    else next.delete(name);
  }
  const text = next.toString();
  go(location.pathname + (text && `?${text}`), replace);
}

export function listen(): void {
  addEventListener("popstate", () => (place.value = read()));
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element | null)?.closest?.("a[href]");
    if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute("download")) return;
    if (link.origin !== location.origin || !link.pathname.startsWith(BASE) || link.hash) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}
