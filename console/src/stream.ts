// Server-sent events over fetch: an EventSource cannot send the console's header.
import { ApiError, CONSOLE, reachable, sent } from "./api";

export interface StreamEvent {
  id: string;
  event: string;
  data: string;
}

export type StreamState = "connecting" | "live" | "waiting" | "ended" | "refused";

/** Reads the lines of an event stream; `push` takes text as it comes. */
export class EventReader {
  private rest = "";
  private data: string[] = [];
  private event = "";
  lastId = "";
  retry: number | null = null;

  constructor(
    private readonly on: (event: StreamEvent) => void,
    private readonly max = 4_000_000,
  ) {}

  push(text: string): void {
    this.rest += text;
    if (this.rest.length > this.max) throw new Error("an event is too long");
    for (;;) {
      const end = this.rest.search(/\r\n|\n|\r(?=.|\n)/s);
      if (end < 0) return;
      const line = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + (this.rest.startsWith("\r\n", end) ? 2 : 1));
      this.line(line);
    }
  }

  private line(line: string): void {
    if (line === "") return this.dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    else if (name === "event") this.event = value;
    else if (name === "id") this.lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }

  private dispatch(): void {
    const found = { id: this.lastId, event: this.event || "message", data: this.data.join("\n") };
    const isThere = this.data.length > 0 && !(this.data.length === 1 && this.data[0] === "");
    this.data = [];
    this.event = "";
    if (isThere) this.on(found);
  }
}

export interface Following {
  close(): void;
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 20_000;
const SILENCE = 45_000;
/** A page that nobody sees gives its connections back: browsers open six to a host. */
const UNSEEN = 30_000;

export interface StreamOptions {
  onEvent: (event: StreamEvent) => void;
  onState?: (state: StreamState, error?: ApiError) => void;
  /** Called at each new connection after the first: what was missed can be read again. */
  onAgain?: () => void;
  /** A stream that ends by itself is not opened again. */
  finite?: boolean;
}

/** Follow a stream; a lost line is opened again, later each time. */
export function follow(path: string, options: StreamOptions): Following {
  const stop = new AbortController();
  void run(path, options, stop.signal);
  return { close: () => stop.abort() };
}

async function run(path: string, options: StreamOptions, stop: AbortSignal): Promise<void> {
  let wait = FIRST_WAIT;
  let lastId = "";
  let isAgain = false;
  const tell = (state: StreamState, error?: ApiError) => stop.aborted || options.onState?.(state, error);
  while (!stop.aborted) {
    await inSight(stop);
    if (stop.aborted) return;
    tell("connecting");
    const reader = new EventReader((event) => stop.aborted || options.onEvent(event));
    reader.lastId = lastId;
    try {
      await once(path, reader, lastId, stop, () => {
        tell("live");
        if (isAgain) options.onAgain?.();
        isAgain = true;
        wait = FIRST_WAIT;
      });
      if (options.finite) return void tell("ended");
    } catch (error) {
      if (stop.aborted) return;
      const isFinal = error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (isFinal) return void tell("refused", error);
    }
    lastId = reader.lastId;
    tell("waiting");
    await sleep(Math.max(reader.retry ?? 0, wait * (0.7 + Math.random() * 0.6)), stop);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

async function once(path: string, reader: EventReader, lastId: string, stop: AbortSignal, opened: () => void): Promise<void> {
  const line = new AbortController();
  const end = () => line.abort();
  stop.addEventListener("abort", end);
  let watchdog = setTimeout(end, SILENCE);
  let unseen: ReturnType<typeof setTimeout> | undefined;
  const seen = () => {
    clearTimeout(unseen);
    if (document.hidden) unseen = setTimeout(end, UNSEEN);
  };
  document.addEventListener("visibilitychange", seen);
  seen();
  try {
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (lastId) headers["last-event-id"] = lastId;
    const response = await sent(path.startsWith("/") ? path : CONSOLE + path, { headers, signal: line.signal });
    opened();
    const body = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await body.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(end, SILENCE);
      reader.push(value);
    }
  } catch (error) {
    if (!stop.aborted && !document.hidden && !(error instanceof ApiError)) reachable.value = false;
    throw error;
  } finally {
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(unseen);
    clearTimeout(watchdog);
    stop.removeEventListener("abort", end);
    line.abort();
  }
}

function inSight(stop: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const look = () => {
      if (document.hidden && !stop.aborted) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
    stop.addEventListener("abort", look, { once: true });
  });
}

const sleep = (ms: number, stop: AbortSignal): Promise<void> =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    stop.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
