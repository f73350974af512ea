import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, asError } from "./api";
import { follow, type StreamEvent, type StreamState } from "./stream";

export interface Loaded<T> {
  data: T | undefined;
  error: ApiError | undefined;
  loading: boolean;
  reload: () => void;
  set: (change: (data: T | undefined) => T | undefined) => void;
}

/** Load something; what is there stays while it is loaded again. `every` is in milliseconds. */
export function useLoad<T>(load: (aborted: AbortSignal) => Promise<T>, deps: unknown[], every = 0): Loaded<T> {
  const [state, setState] = useState<{ data?: T; error?: ApiError; loading: boolean }>({ loading: true });
  const [round, setRound] = useState(0);
  const key = useRef<unknown[]>(deps);
  useEffect(() => {
    const aborter = new AbortController();
    const isSame = key.current.every((one, at) => Object.is(one, deps[at]));
    key.current = deps;
    setState((before) => (isSame ? { ...before, loading: true } : { loading: true }));
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = (ms: number) => (timer = setTimeout(read, ms));
    const read = () => {
      if (document.hidden && every) return void again(every);
      load(aborter.signal).then(
        (data) => {
          if (aborter.signal.aborted) return;
          setState({ data, loading: false });
          if (every) again(every);
        },
        (reason: unknown) => {
          if (aborter.signal.aborted) return;
          const error = asError(reason);
          setState((before) => ({ ...before, error, loading: false }));
          if (error.status === 0 || error.status >= 500) again(Math.max(every, 3000));
        },
      );
    };
    read();
    return () => {
      aborter.abort();
      clearTimeout(timer);
    };
  }, [...deps, round]);
  const reload = useCallback(() => setRound((n) => n + 1), []);
  const set = useCallback((change: (data: T | undefined) => T | undefined) => {
    setState((before) => ({ ...before, data: change(before.data) }));
  }, []);
  return { data: state.data, error: state.error, loading: state.loading, reload, set };
}

/** Follow a stream while the component is there; `path` null follows nothing. */
export function useStream(path: string | null, onEvent: (event: StreamEvent) => void, onAgain?: () => void): { state: StreamState; error?: ApiError } {
  const [state, setState] = useState<{ state: StreamState; error?: ApiError }>({ state: "connecting" });
  const latest = useRef({ onEvent, onAgain });
  latest.current = { onEvent, onAgain };
  useEffect(() => {
    if (path === null) return undefined;
    const following = follow(path, {
      onEvent: (event) => latest.current.onEvent(event),
      onAgain: () => latest.current.onAgain?.(),
      onState: (next, error) => setState({ state: next, error }),
    });
    return () => following.close();
  }, [path]);
  return state;
}

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Twinspan`;
  }, [title]);
}

/** A value that follows another one after a pause. */
export function useSettled<T>(value: T, ms = 250): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}
