// Sending a message to a thing and seeing what comes back.
import { useState } from "preact/hooks";
import { ApiError, asError, query, seg, sent } from "../api";
import { bytes, hexLines, pretty, shown } from "../text";
import { Field, State, Text, When } from "../ui/parts";

export interface Exchange {
  id: number;
  thingId: string;
  subject: string;
  at: number;
  waits: boolean;
  took?: number;
  status?: number;
  type?: string;
  answer?: string;
  error?: ApiError;
}

let lastExchange = 0;

/** Send, and give the exchange as it goes on. */
async function send(start: Exchange, feature: string, payload: string, type: string, timeout: number, on: (next: Exchange) => void): Promise<void> {
  const part = feature ? `/features/${seg(feature)}` : "";
  const address = `/api/2/things/${seg(start.thingId)}${part}/inbox/messages/${start.subject.split("/").map(seg).join("/")}${query({ timeout: `${timeout}` })}`;
  const began = performance.now();
  const took = () => (performance.now() - began) / 1000;
  on(start);
  try {
    const response = await sent(address, { method: "POST", raw: payload, headers: { "content-type": type, accept: "*/*" } });
    const data = new Uint8Array(await response.arrayBuffer());
    const answered = response.headers.get("content-type") ?? "";
    on({ ...start, took: took(), status: response.status, type: answered, answer: answerText(data, answered) });
  } catch (reason) {
    on({ ...start, took: took(), error: asError(reason), status: asError(reason).status });
  }
}

function answerText(data: Uint8Array, type: string): string {
  if (data.length === 0) return "";
  if (/json|text|xml/.test(type)) {
    const text = new TextDecoder().decode(data);
    try {
      return /json/.test(type) ? pretty(JSON.parse(text), 20_000) : shown(text, 20_000, true);
    } catch {
      return shown(text, 20_000, true);
    }
  }
  return hexLines(data);
}

export function MessageForm({ thingId, features = [] }: { thingId: string; features?: string[] }) {
  const [subject, setSubject] = useState("");
  const [feature, setFeature] = useState("");
  const [payload, setPayload] = useState("{}");
  const [type, setType] = useState("application/json");
  const [timeout, setTimeoutSeconds] = useState(10);
  const [past, setPast] = useState<Exchange[]>([]);
  const update = (next: Exchange) => setPast((before) => [next, ...before.filter((one) => one.id !== next.id)].sort((a, b) => b.id - a.id).slice(0, 50));
  const submit = (event: Event) => {
    event.preventDefault();
    const start = { id: ++lastExchange, thingId, subject, at: Date.now(), waits: timeout > 0 };
    void send(start, feature, payload, type, timeout, update);
  };
  return (
    <div class="split">
      <form class="message-form" onSubmit={submit} aria-label="Message">
        <Field label="Subject">{(id) => <input id={id} class="mono" required value={subject} onInput={(event) => setSubject(event.currentTarget.value)} placeholder="setBrightness" autocomplete="off" />}</Field>
        <Field label="To">
          {(id) => (
            <select id={id} value={feature} onChange={(event) => setFeature(event.currentTarget.value)}>
              <option value="">the thing</option>
              {features.map((one) => (
                <option key={one} value={one}>
                  feature {shown(one, 60)}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Content type">
          {(id) => (
            <>
              <input id={id} class="mono" list="content-types" value={type} onInput={(event) => setType(event.currentTarget.value)} />
              <datalist id="content-types">
                <option value="application/json" />
                <option value="text/plain" />
                <option value="application/octet-stream" />
              </datalist>
            </>
          )}
        </Field>
        <Field label="Wait for an answer" hint="Seconds; 0 sends one way.">
          {(id, described) => <input id={id} aria-describedby={described} type="number" min={0} max={60} value={timeout} onInput={(event) => setTimeoutSeconds(Number(event.currentTarget.value))} />}
        </Field>
        <Field label="Payload" wide>
          {(id) => <textarea id={id} class="mono" rows={5} value={payload} onInput={(event) => setPayload(event.currentTarget.value)} spellcheck={false} />}
        </Field>
        <div class="actions">
          <button type="submit" class="primary" disabled={!thingId}>
            Send
          </button>
        </div>
      </form>
      <ol class="exchanges" aria-label="Messages that were sent" aria-live="polite">
        {past.length === 0 && <li class="muted">What is sent, and what came back, stands here.</li>}
        {past.map((one) => (
          <li key={one.id} class="exchange">
            <div class="exchange-head">
              <ExchangeState of={one} />
              <Text of={one.subject} max={80} mono />
              <span class="muted small">
                <When at={one.at} />
                {one.took !== undefined && ` · ${one.took.toFixed(2)} s`}
              </span>
            </div>
            {one.error && <p class="small"><Text of={`${one.error.message} ${one.error.description}`} max={500} /></p>}
            {one.answer && (
              <>
                <p class="small muted"><Text of={one.type ?? ""} max={100} /> · {bytes(one.answer.length)}</p>
                <pre class="code" tabIndex={0}>{one.answer}</pre>
              </>
            )}
          </li>
        ))}
      </ol>
    </div>
  );
}

function ExchangeState({ of }: { of: Exchange }) {
  if (of.error) return <State tone={of.status === 408 ? "warn" : "bad"}>{of.status === 408 ? "no answer in time (408)" : `refused${of.status ? ` (${of.status})` : ""}`}</State>;
  if (of.status === undefined) return <State tone="info">{of.waits ? "waiting for the answer" : "sending"}</State>;
  if (!of.waits) return <State tone="ok">sent ({of.status})</State>;
  return <State tone={of.status < 400 ? "ok" : "warn"}>answered {of.status}</State>;
}
