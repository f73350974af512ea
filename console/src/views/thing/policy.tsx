// A policy as a table, and why somebody may or may not do something.
import { useState } from "preact/hooks";
import { type ApiError, asError, get, type JsonObject, query, seg } from "../../api";
import { useLoad } from "../../hooks";
import { pretty } from "../../text";
import { Card, Copy, Empty, Failure, Field, Shown, State, Text, type Tone } from "../../ui/parts";

interface Entry {
  subjects: Record<string, { type?: string; expiry?: string }>;
  resources: Record<string, { grant: string[]; revoke: string[] }>;
}

interface Policy {
  policyId: string;
  entries?: Record<string, Entry>;
  imports?: JsonObject;
}

interface Decision {
  verdict: string;
  because: string;
  decidedAt?: string;
}

interface Explanation {
  resource: string;
  subjects: string[];
  permissions: Record<string, Decision>;
  [rest: string]: unknown;
}

const VERDICTS: Record<string, Tone> = { unrestricted: "ok", granted: "ok", partial: "warn", denied: "bad", revoked: "bad", none: "bad" };

export function PolicyView({ thingId, policyId }: { thingId: string; policyId: string }) {
  const policy = useLoad((aborted) => get<Policy>(`/api/2/policies/${seg(policyId)}`, aborted), [policyId]);
  const subjects = [...new Set(Object.values(policy.data?.entries ?? {}).flatMap((one) => Object.keys(one.subjects ?? {})))];
  return (
    <div class="cards">
      <Card title="Explain" wide>
        <Explain thingId={thingId} subjects={subjects} />
      </Card>
      <Card title="Entries" wide actions={policy.data && <Copy label="JSON" text={() => JSON.stringify(policy.data, null, 2)} />}>
        <Shown of={policy}>{(data) => <Entries policy={data} />}</Shown>
      </Card>
    </div>
  );
}

function Entries({ policy }: { policy: Policy }) {
  const entries = Object.entries(policy.entries ?? {});
  if (entries.length === 0) return <Empty title="No entries that you may see" />;
  return (
    <div class="values-box">
      <table class="values" aria-label="Entries of the policy">
        <thead>
          <tr>
            <th scope="col">Entry</th>
            <th scope="col">Subjects</th>
            <th scope="col">Resource</th>
            <th scope="col">Granted</th>
            <th scope="col">Revoked</th>
          </tr>
        </thead>
        <tbody>
          {entries.flatMap(([label, entry]) => {
            const resources = Object.entries(entry.resources ?? {});
            return (resources.length ? resources : [["–", { grant: [], revoke: [] }] as const]).map(([resource, rights], nth) => (
              <tr key={`${label} ${resource}`}>
                <th scope="row">{nth === 0 && <Text of={label} max={80} />}</th>
                <td>{nth === 0 && Object.keys(entry.subjects ?? {}).slice(0, 20).map((one) => <div key={one}><Text of={one} max={100} mono /></div>)}</td>
                <td class="mono"><Text of={resource} max={120} /></td>
                <td>{rights.grant.join(", ") || "–"}</td>
                <td>{rights.revoke.length ? <State tone="bad">{rights.revoke.join(", ")}</State> : "–"}</td>
              </tr>
            ));
          })}
        </tbody>
      </table>
      {policy.imports && <p class="small muted">Imports: {Object.keys(policy.imports).join(", ").slice(0, 300)}</p>}
    </div>
  );
}

function Explain({ thingId, subjects }: { thingId: string; subjects: string[] }) {
  const [subject, setSubject] = useState("");
  const [path, setPath] = useState("/");
  const [resource, setResource] = useState("thing");
  const [found, setFound] = useState<Explanation | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const ask = async (event: Event) => {
    event.preventDefault();
    setError(null);
    try {
      setFound(await get<Explanation>(`/api/2/things/${seg(thingId)}/explain${query({ subject, path, resource })}`));
    } catch (reason) {
      setFound(null);
      setError(asError(reason));
    }
  };
  return (
    <>
      <form class="row-form" onSubmit={(event) => void ask(event)}>
        <Field label="Subject" hint="Empty: you">
          {(id, described) => (
            <>
              <input id={id} aria-describedby={described} list="explain-subjects" class="mono" value={subject} onInput={(event) => setSubject(event.currentTarget.value)} />
              <datalist id="explain-subjects">
                {subjects.map((one) => (
                  <option key={one} value={one} />
                ))}
              </datalist>
            </>
          )}
        </Field>
        <Field label="Resource">
          {(id) => (
            <select id={id} value={resource} onChange={(event) => setResource(event.currentTarget.value)}>
              {["thing", "policy", "message"].map((one) => (
                <option key={one}>{one}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Path">{(id) => <input id={id} class="mono" value={path} onInput={(event) => setPath(event.currentTarget.value)} required />}</Field>
        <button type="submit" class="primary">
          Explain
        </button>
      </form>
      {error && <Failure error={error} />}
      {found && (
        <div class="explained" role="status">
          <ul class="plain">
            {Object.entries(found.permissions ?? {}).map(([name, decision]) => (
              <li key={name}>
                <State tone={VERDICTS[decision.verdict] ?? "info"}>
                  {name}: {decision.verdict}
                </State>{" "}
                <Text of={decision.because} max={600} />
              </li>
            ))}
          </ul>
          <details>
            <summary>Everything that counted</summary>
            <pre class="code" tabIndex={0}>{pretty(found, 20_000)}</pre>
          </details>
        </div>
      )}
    </>
  );
}
