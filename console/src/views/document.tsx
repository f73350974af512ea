// Editing a whole JSON document: what was read is what is replaced.
import { useEffect, useState } from "preact/hooks";
import { ApiError, call, type Json } from "../api";
import { tell } from "../state";
import { Form } from "../ui/dialog";
import { Field, Loading } from "../ui/parts";

interface Props {
  title: string;
  address: (id: string) => string;
  /** The label of the id that is asked for: then a new one is made. */
  ask?: string;
  create?: boolean;
  start?: Json;
  /** Members that the service writes itself. */
  drop?: string[];
  hint?: string;
  onClose: () => void;
  onDone: (id: string) => void;
}

export function EditDocument({ title, address, ask, create = false, start, drop = [], hint, onClose, onDone }: Props) {
  const [id, setId] = useState("");
  const [text, setText] = useState<string | null>(create ? JSON.stringify(start ?? {}, null, 2) : null);
  const [etag, setEtag] = useState<string | null>(null);
  const [failed, setFailed] = useState("");
  useEffect(() => {
    if (create) return;
    call<Json>(address("")).then(
      (answer) => {
        setEtag(answer.etag);
        setText(JSON.stringify(trimmed(answer.data, drop), null, 2));
      },
      (reason: unknown) => setFailed(reason instanceof Error ? reason.message : String(reason)),
    );
  }, []);
  const [problem, setProblem] = useState("");
  const change = (next: string) => {
    setText(next);
    try {
      JSON.parse(next);
      setProblem("");
    } catch (error) {
      setProblem(error instanceof Error ? error.message : "not valid JSON");
    }
  };
  const act = async () => {
    if (text === null || problem) throw new ApiError(0, "json.invalid", problem || failed || "Nothing was read.");
    try {
      await call(address(id), { method: create ? "POST" : "PUT", body: JSON.parse(text), headers: etag ? { "if-match": etag } : {} });
    } catch (error) {
      if (error instanceof ApiError && error.status === 412) throw new ApiError(412, error.code, "Somebody else changed it meanwhile.", "Close this, look at it again and edit anew.");
      throw error;
    }
    tell(create ? `Made ${id.slice(0, 60)}` : "Saved");
    onDone(id);
  };
  return (
    <Form title={title} verb={create ? "Create" : "Save"} onDo={act} onClose={onClose} wide>
      {ask && <Field label={ask}>{(field) => <input id={field} class="mono" required value={id} onInput={(event) => setId(event.currentTarget.value)} autocomplete="off" />}</Field>}
      {text === null ? failed ? <p role="alert">{failed.slice(0, 400)}</p> : <Loading lines={3} /> : (
        <Field label="JSON" wide hint={hint} error={problem || undefined}>
          {(field, described) => <textarea id={field} aria-describedby={described} aria-invalid={problem ? true : undefined} class="mono" rows={14} value={text} onInput={(event) => change(event.currentTarget.value)} spellcheck={false} />}
        </Field>
      )}
    </Form>
  );
}

const trimmed = (data: Json, drop: string[]): Json => (data !== null && typeof data === "object" && !Array.isArray(data) ? Object.fromEntries(Object.entries(data).filter(([name]) => !drop.includes(name))) : data);
