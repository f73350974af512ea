// The small things every view is made of.
import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import type { ApiError } from "../api";
import { setParams, params } from "../router";
import { now, tell } from "../state";
import type { StreamState } from "../stream";
import { absolute, ago, inline, instant, shown } from "../text";
import { Icon } from "./icons";

/** Text from outside: cut, isolated from the text around it. */
export const Text = ({ of, max = 200, mono = false }: { of: unknown; max?: number; mono?: boolean }) => (
  <bdi class={mono ? "mono" : undefined}>{typeof of === "string" ? shown(of, max) : inline(of, max)}</bdi>
);

/** A time: how long ago, and the time itself where one points. */
export function When({ at, both = false }: { at: unknown; both?: boolean }) {
  const then = instant(at);
  if (then === null) return <span class="muted">–</span>;
  const iso = new Date(then).toISOString();
  return (
    <time dateTime={iso} title={absolute(then)}>
      {both ? `${absolute(then)} (${ago(then, now.value)})` : ago(then, now.value)}
    </time>
  );
}

/** A value that lights up when it becomes another one. */
export function Live({ of, path, children }: { of: unknown; path: string; children: ComponentChildren }) {
  const seen = useRef({ text: JSON.stringify(of), times: 0 });
  const text = JSON.stringify(of);
  if (text !== seen.current.text) seen.current = { text, times: seen.current.times + 1 };
  return (
    <span key={seen.current.times} class={seen.current.times > 0 ? "value lit" : "value"} data-path={path}>
      {children}
    </span>
  );
}

export type Tone = "ok" | "warn" | "bad" | "idle" | "info";

/** A state: by its sign and word, not by colour alone. */
export const State = ({ tone, children, title }: { tone: Tone; children: ComponentChildren; title?: string }) => (
  <span class={`state ${tone}`} title={title}>
    <Icon of={tone} />
    <span>{children}</span>
  </span>
);

const STREAMS: Record<StreamState, [Tone, string]> = {
  connecting: ["idle", "connecting"],
  live: ["ok", "live"],
  waiting: ["warn", "reconnecting"],
  ended: ["idle", "ended"],
  refused: ["bad", "refused"],
};

export const StreamMark = ({ of, paused = false }: { of: StreamState; paused?: boolean }) => {
  const [tone, word] = paused ? (["idle", "paused"] as const) : STREAMS[of];
  return (
    <span class="stream-mark" role="status">
      <State tone={tone}>{word}</State>
    </span>
  );
};

export function Failure({ error, again }: { error: ApiError; again?: () => void }) {
  const title = error.status === 0 ? "The gateway does not answer" : error.status === 403 ? "Not allowed" : error.status === 404 ? "Not there" : error.status === 501 ? "Not part of this process" : "That did not work";
  return (
    <div class="failure" role="alert">
      <State tone={error.status === 404 || error.status === 501 ? "idle" : "bad"}>{title}</State>
      <p>
        <Text of={error.message} max={600} />
        {error.description && (
          <>
            {" "}
            <Text of={error.description} max={600} />
          </>
        )}
      </p>
      <p class="muted small">
        {error.status > 0 && `Status ${error.status}`}
        {error.code && (
          <>
            {" · "}
            <Text of={error.code} max={100} mono />
          </>
        )}
      </p>
      {again && (
        <button type="button" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

export const Empty = ({ title, children }: { title: string; children?: ComponentChildren }) => (
  <div class="empty">
    <p class="empty-title">{title}</p>
    {children && <p>{children}</p>}
  </div>
);

export const Loading = ({ lines = 4 }: { lines?: number }) => (
  <div class="loading" role="status" aria-label="Loading">
    {Array.from({ length: lines }, (_, at) => (
      <span key={at} class="bone" />
    ))}
  </div>
);

/** Errors, emptiness and waiting of something that is loaded. */
export function Shown<T>({ of, lines, children }: { of: { data: T | undefined; error: ApiError | undefined; reload: () => void }; lines?: number; children: (data: T) => ComponentChildren }) {
  if (of.data === undefined) return of.error ? <Failure error={of.error} again={of.reload} /> : <Loading lines={lines} />;
  return (
    <>
      {of.error && (
        <p class="stale" role="status">
          <State tone="warn">Not up to date</State> <Text of={of.error.message} />
        </p>
      )}
      {children(of.data)}
    </>
  );
}

export const Head = ({ title, kind, children, extra }: { title: ComponentChildren; kind?: string; children?: ComponentChildren; extra?: ComponentChildren }) => (
  <header class="view-head">
    <div class="view-title">
      {kind && <p class="kind">{kind}</p>}
      <h1>{title}</h1>
      {extra}
    </div>
    {children && <div class="actions">{children}</div>}
  </header>
);

export const Card = ({ title, children, actions, wide = false, id }: { title: string; children: ComponentChildren; actions?: ComponentChildren; wide?: boolean; id?: string }) => (
  <section class={wide ? "card wide" : "card"} aria-label={title} id={id}>
    <div class="card-head">
      <h2>{title}</h2>
      {actions && <div class="actions">{actions}</div>}
    </div>
    {children}
  </section>
);

/** Names and values. */
export const Facts = ({ of }: { of: [string, ComponentChildren][] }) => (
  <dl class="facts">
    {of.map(([name, value]) => (
      <div key={name}>
        <dt>{name}</dt>
        <dd>{value ?? <span class="muted">–</span>}</dd>
      </div>
    ))}
  </dl>
);

let fieldCount = 0;

export function Field({ label, hint, error, children, wide = false }: { label: string; hint?: ComponentChildren; error?: string; wide?: boolean; children: (id: string, described: string | undefined) => ComponentChildren }) {
  const [id] = useState(() => `field-${++fieldCount}`);
  const described = hint || error ? `${id}-note` : undefined;
  return (
    <div class={wide ? "field wide" : "field"}>
      <label for={id}>{label}</label>
      {children(id, described)}
      {described && (
        <p id={described} class={error ? "field-error" : "field-hint"} role={error ? "alert" : undefined}>
          {error ?? hint}
        </p>
      )}
    </div>
  );
}

/** A search field that `/` jumps to. */
export const Search = ({ value, onInput, label, placeholder }: { value: string; onInput: (text: string) => void; label: string; placeholder?: string }) => (
  <div class="search">
    <Icon of="search" />
    <input type="search" data-search aria-label={label} placeholder={placeholder ?? label} value={value} onInput={(event) => onInput(event.currentTarget.value)} spellcheck={false} autocomplete="off" />
  </div>
);

export function Copy({ text, label }: { text: string | (() => string); label: string }) {
  const copy = async () => {
    const content = typeof text === "string" ? text : text();
    try {
      await navigator.clipboard.writeText(content);
      tell(`Copied: ${label}`);
    } catch {
      tell("The browser does not let the page copy.", "bad");
    }
  };
  return (
    <button type="button" class="quiet" onClick={() => void copy()}>
      <Icon of="copy" /> {label}
    </button>
  );
}

/** Tabs whose choice stands in the address. */
export function Tabs({ of, label }: { of: { id: string; title: string; body: () => ComponentChildren }[]; label: string }) {
  const chosen = of.find((one) => one.id === params.value.get("tab")) ?? of[0]!;
  const move = (event: KeyboardEvent) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    const next = of[(of.indexOf(chosen) + step + of.length) % of.length]!;
    setParams({ tab: next.id });
    requestAnimationFrame(() => document.getElementById(`tab-${next.id}`)?.focus());
  };
  return (
    <>
      <div class="tabs" role="tablist" aria-label={label} onKeyDown={move}>
        {of.map((one) => (
          <button key={one.id} type="button" role="tab" id={`tab-${one.id}`} aria-selected={one === chosen} aria-controls="tab-panel" tabIndex={one === chosen ? 0 : -1} onClick={() => setParams({ tab: one.id })}>
            {one.title}
          </button>
        ))}
      </div>
      <div id="tab-panel" class="tab-panel" role="tabpanel" aria-labelledby={`tab-${chosen.id}`} tabIndex={0}>
        {chosen.body()}
      </div>
    </>
  );
}
