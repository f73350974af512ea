import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { type ApiError, asError } from "../api";
import { Failure } from "./parts";
import { Icon } from "./icons";

export function Dialog({ title, onClose, children, wide = false }: { title: string; onClose: () => void; children: ComponentChildren; wide?: boolean }) {
  const box = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const dialog = box.current!;
    if (!dialog.open) dialog.showModal();
    return () => dialog.close(); // gives the focus back to what had it
  }, []);
  return (
    <dialog ref={box} class={wide ? "dialog wide" : "dialog"} aria-label={title} onCancel={(event) => (event.preventDefault(), onClose())} onClose={() => box.current && onClose()}>
      <div class="dialog-head">
        <h2>{title}</h2>
        <button type="button" class="quiet icon-only" aria-label="Close" onClick={onClose}>
          <Icon of="close" />
        </button>
      </div>
      {children}
    </dialog>
  );
}

/** A form in a dialog: one button does it, an error stays in sight. */
export function Form({ title, verb, onDo, onClose, children, danger = false, wide = false }: { title: string; verb: string; onDo: () => Promise<void>; onClose: () => void; children: ComponentChildren; danger?: boolean; wide?: boolean }) {
  const [error, setError] = useState<ApiError | null>(null);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await onDo();
      onClose();
    } catch (reason) {
      setError(asError(reason));
      setBusy(false);
    }
  };
  return (
    <Dialog title={title} onClose={onClose} wide={wide}>
      <form onSubmit={(event) => void submit(event)}>
        <div class="dialog-body">{children}</div>
        {error && <Failure error={error} />}
        <div class="dialog-foot">
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class={danger ? "danger" : "primary"} disabled={isBusy}>
            {isBusy ? "Working …" : verb}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** Asks before something is destroyed; `word` has to be typed where it is given. */
export function Confirm({ title, verb, word, onDo, onClose, children }: { title: string; verb: string; word?: string; onDo: () => Promise<void>; onClose: () => void; children: ComponentChildren }) {
  const [typed, setTyped] = useState("");
  const act = async () => {
    if (word !== undefined && typed !== word) throw new Error(`Type ${word} to go on.`);
    await onDo();
  };
  return (
    <Form title={title} verb={verb} onDo={act} onClose={onClose} danger>
      <p>{children}</p>
      {word !== undefined && (
        <div class="field">
          <label for="confirm-word">
            Type <b class="mono">{word.slice(0, 80)}</b> to go on
          </label>
          <input id="confirm-word" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} autocomplete="off" />
        </div>
      )}
    </Form>
  );
}
