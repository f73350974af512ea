import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, asError } from "../api";
import { useTitle } from "../hooks";
import { ThemeChoice } from "../shell";
import { signIn } from "../state";
import { Failure, Field } from "../ui/parts";

export function SignIn({ inDialog = false, onDone }: { inDialog?: boolean; onDone?: () => void }) {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const [error, setError] = useState<ApiError | null>(null);
  const [isBusy, setBusy] = useState(false);
  const first = useRef<HTMLInputElement>(null);
  useTitle("Sign in");
  useEffect(() => first.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await signIn(user, password);
      onDone?.();
    } catch (reason) {
      setError(asError(reason));
      setPassword("");
    } finally {
      setBusy(false);
    }
  };
  const form = (
    <form class="signin-form" onSubmit={(event) => void submit(event)}>
      <Field label="User">
        {(id) => <input id={id} ref={first} name="username" autocomplete="username" autocapitalize="none" spellcheck={false} required value={user} onInput={(event) => setUser(event.currentTarget.value)} />}
      </Field>
      <Field label="Password">
        {(id) => <input id={id} name="password" type="password" autocomplete="current-password" required value={password} onInput={(event) => setPassword(event.currentTarget.value)} />}
      </Field>
      {error && <Failure error={error} />}
      <button type="submit" class="primary" disabled={isBusy}>
        {isBusy ? "Signing in …" : "Sign in"}
      </button>
    </form>
  );
  if (inDialog) return form;
  return (
    <main class="alone" id="main">
      <div class="signin">
        <h1>
          <img src="/console/favicon.svg" width="32" height="32" alt="" /> Twinspan
        </h1>
        <p class="muted">Sign in as operator to see the fleet, or as a user of Ditto to see things.</p>
        {form}
        <div class="signin-foot">
          <ThemeChoice />
        </div>
      </div>
    </main>
  );
}
