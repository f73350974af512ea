// Changing one value: what was read is what is replaced, or both are shown.
import { useEffect, useState } from "preact/hooks";
import { ApiError, asError, call, type Json, seg } from "../../api";
import { tell } from "../../state";
import { pretty } from "../../text";
import { Dialog } from "../../ui/dialog";
import { Failure, Field, Loading, Text } from "../../ui/parts";

interface Read {
  value: Json | undefined;
  etag: string | null;
}

async function read(address: string): Promise<Read> {
  try {
    const answer = await call<Json>(address);
    return { value: answer.data, etag: answer.etag };
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return { value: undefined, etag: null };
    throw error;
  }
}

/** Free text that is not JSON is taken as a text. */
export function parsed(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    if (/^\s*[[{"]/.test(text)) throw new ApiError(0, "json.invalid", "This is not valid JSON.");
    return text;
  }
}

export function EditValue({ thingId, path, onClose }: { thingId: string; path: string[]; onClose: () => void }) {
  const address = `/api/2/things/${seg(thingId)}/${path.map(seg).join("/")}`;
  const [base, setBase] = useState<Read | null>(null);
  const [text, setText] = useState("");
  const [theirs, setTheirs] = useState<Read | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => {
    read(address).then(
      (found) => {
        setBase(found);
        setText(found.value === undefined ? "" : JSON.stringify(found.value, null, 1));
      },
      (reason) => setError(asError(reason)),
    );
  }, [address]);

  const save = async (over: Read) => {
    setBusy(true);
    setError(null);
    try {
      const headers: Record<string, string> = { "content-type": "application/merge-patch+json" };
      if (over.etag) headers["if-match"] = over.etag;
      else headers["if-none-match"] = "*";
      await call(address, { method: "PATCH", body: parsed(text), headers });
      tell(`Saved ${path.at(-1)!.slice(0, 60)}`);
      onClose();
    } catch (reason) {
      const refused = asError(reason);
      if (refused.status === 412) setTheirs(await read(address).catch(() => over));
      else setError(refused);
      setBusy(false);
    }
  };
  const remove = async () => {
    setBusy(true);
    try {
      await call(address, { method: "DELETE", headers: base?.etag ? { "if-match": base.etag } : {} });
      tell(`Removed ${path.at(-1)!.slice(0, 60)}`);
      onClose();
    } catch (reason) {
      setError(asError(reason));
      setBusy(false);
    }
  };

  return (
    <Dialog title="Edit a value" onClose={onClose}>
      <form onSubmit={(event) => (event.preventDefault(), base && void save(base))}>
        <div class="dialog-body">
          <p class="mono small">
            <Text of={`/${path.join("/")}`} max={200} />
          </p>
          {base ? (
            <Field label="Value" hint="JSON; other text is taken as a text." wide>
              {(id, described) => <textarea id={id} aria-describedby={described} class="mono" rows={Math.min(14, Math.max(3, text.split("\n").length + 1))} value={text} onInput={(event) => setText(event.currentTarget.value)} spellcheck={false} />}
            </Field>
          ) : (
            !error && <Loading lines={2} />
          )}
          {theirs && (
            <div class="conflict" role="alert">
              <p>
                <b>Somebody else changed it meanwhile.</b> It is now:
              </p>
              <pre class="code">{pretty(theirs.value ?? null, 2000)}</pre>
              <div class="actions">
                <button type="button" onClick={() => (setBase(theirs), setText(JSON.stringify(theirs.value ?? null, null, 1)), setTheirs(null))}>
                  Take theirs
                </button>
                <button type="button" class="danger" onClick={() => (setBase(theirs), setTheirs(null), void save(theirs))}>
                  Replace it with mine
                </button>
              </div>
            </div>
          )}
        </div>
        {error && <Failure error={error} />}
        <div class="dialog-foot">
          {base?.value !== undefined && (
            <button type="button" class="danger quiet" disabled={isBusy} onClick={() => void remove()}>
              Remove the value
            </button>
          )}
          <span class="grow" />
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={!base || isBusy || theirs !== null}>
            Save
          </button>
        </div>
      </form>
    </Dialog>
  );
}
