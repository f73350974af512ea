// One pod and its logs.
import { useEffect, useRef, useState } from "preact/hooks";
import { asError, type ApiError, call, CONSOLE, get, query, seg, sent } from "../api";
import { useLoad, useTitle } from "../hooks";
import { useChanges } from "../live";
import { go, href, params, setParams } from "../router";
import { tell } from "../state";
import { shown } from "../text";
import { Confirm } from "../ui/dialog";
import { Card, Copy, Empty, Facts, Failure, Head, Search, Shown, StreamMark, Text, When } from "../ui/parts";
import type { StreamState } from "../stream";
import { type Pod, PodState, type Workloads } from "./workloads";

const KEPT_LINES = 5000;

export function PodPage({ namespace, name }: { namespace: string; name: string }) {
  useTitle(shown(name, 60));
  const [isDeleting, setDeleting] = useState(false);
  const pod = useLoad(async (aborted) => (await get<Workloads>(`workloads${query({ namespace })}`, aborted)).pods.find((one) => one.name === name) ?? null, [namespace, name], 10_000);
  useChanges<Pod>("pods", (change) => {
    if (change.object.namespace === namespace && change.object.name === name) pod.set((before) => (change.type === "gone" ? null : { ...before, ...change.object }));
  });
  const remove = async () => {
    await call(`pods/${seg(namespace)}/${seg(name)}`, { method: "DELETE" });
    tell(`${name.slice(0, 60)} is being deleted`);
    go(href("workloads"));
  };
  return (
    <>
      <Head kind="Pod" title={<Text of={name} max={100} />} extra={pod.data && <PodState of={pod.data} />}>
        <Copy label="kubectl" text={`kubectl -n ${namespace} describe pod ${name}`} />
        <button type="button" class="danger" disabled={!pod.data} onClick={() => setDeleting(true)}>Delete …</button>
      </Head>
      <Shown of={pod}>
        {(data) =>
          data === null ? (
            <Empty title="There is no such pod"><a href={href("workloads")}>All workloads</a></Empty>
          ) : (
            <>
              <Facts of={[["Namespace", <Text of={data.namespace} />], ["Node", data.node && <a href={href("fleet", data.node)}><Text of={data.node} max={60} /></a>], ["Address", data.address && <Text of={data.address} mono />], ["Ready", data.ready], ["Restarts", data.restarts], ["Of", data.owner && <Text of={`${data.owner.kind} ${data.owner.name}`} />], ["Age", <When at={data.created} both />]]} />
              <Logs namespace={namespace} name={name} containers={data.containers} />
            </>
          )
        }
      </Shown>
      {isDeleting && (
        <Confirm title="Delete the pod" verb="Delete" word={name} onDo={remove} onClose={() => setDeleting(false)}>
          What owns it may make another one. Its logs are gone with it.
        </Confirm>
      )}
    </>
  );
}

function Logs({ namespace, name, containers }: { namespace: string; name: string; containers: string[] }) {
  const container = params.value.get("container") ?? containers[0] ?? "";
  const [isFollowing, setFollowing] = useState(true);
  const [isWrapped, setWrapped] = useState(true);
  const [isBefore, setBefore] = useState(false);
  const [word, setWord] = useState("");
  const path = `pods/${seg(namespace)}/${seg(name)}/log`;
  const [round, setRound] = useState(0);
  const log = useLog(`${path}${query({ container, follow: isFollowing && !isBefore, tail: 1000, previous: isBefore })}`, round);
  const box = useRef<HTMLPreElement>(null);
  const lines = word ? log.lines.filter((line) => line.toLowerCase().includes(word.toLowerCase())) : log.lines;
  useEffect(() => {
    const at = box.current;
    if (at && isFollowing) at.scrollTop = at.scrollHeight;
  }, [log.lines, isFollowing]);
  const download = async () => {
    const response = await sent(`${path}${query({ container, tail: 10_000, previous: isBefore })}`, { headers: { accept: "text/plain" } });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `${name}-${container}.log`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  return (
    <Card title="Logs" wide actions={<StreamMark of={log.state} paused={!isFollowing && log.state === "live"} />}>
      <div class="filters">
        <Search label="Search the log" value={word} onInput={setWord} />
        {containers.length > 1 && (
          <select aria-label="Container" value={container} onChange={(event) => setParams({ container: event.currentTarget.value })}>
            {containers.map((one) => <option key={one}>{one}</option>)}
          </select>
        )}
        <label class="check"><input type="checkbox" checked={isFollowing} onChange={(event) => setFollowing(event.currentTarget.checked)} /> Follow</label>
        <label class="check"><input type="checkbox" checked={isWrapped} onChange={(event) => setWrapped(event.currentTarget.checked)} /> Wrap</label>
        <label class="check"><input type="checkbox" checked={isBefore} onChange={(event) => setBefore(event.currentTarget.checked)} /> Run before</label>
        <button type="button" onClick={() => void download().catch((reason: unknown) => tell(asError(reason).message, "bad"))}>Download</button>
      </div>
      {log.error ? <Failure error={log.error} again={() => setRound(round + 1)} /> : <pre ref={box} class={isWrapped ? "code log" : "code log long"} tabIndex={0} role="log" aria-label="Log lines">{lines.length ? lines.map((line) => shown(line, 4000, true)).join("\n") : log.state === "ended" ? "The log is empty." : ""}</pre>}
    </Card>
  );
}

function useLog(path: string, round: number): { lines: string[]; state: StreamState; error?: ApiError } {
  const [found, setFound] = useState<{ lines: string[]; state: StreamState; error?: ApiError }>({ lines: [], state: "connecting" });
  useEffect(() => {
    const stop = new AbortController();
    let lines: string[] = [];
    let rest = "";
    let timer: ReturnType<typeof setTimeout> | undefined;
    const show = () => ((timer = undefined), setFound({ lines: rest ? [...lines, rest] : lines, state: "live" }));
    setFound({ lines: [], state: "connecting" });
    const read = async () => {
      const response = await sent(CONSOLE + path, { headers: { accept: "text/plain" }, signal: stop.signal });
      const body = response.body!.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await body.read();
        if (done) break;
        const parts = (rest + value).split("\n");
        rest = (parts.pop() ?? "").slice(-100_000);
        lines = [...lines, ...parts].slice(-KEPT_LINES);
        timer ??= setTimeout(show, 100);
      }
      clearTimeout(timer);
      setFound({ lines: rest ? [...lines, rest] : lines, state: "ended" });
    };
    read().catch((reason: unknown) => stop.signal.aborted || setFound({ lines, state: "refused", error: asError(reason) }));
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path, round]);
  return found;
}
