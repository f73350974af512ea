// The frame: sign-in before all else, then navigation, keys, notices and the view of the address.
import { Component, type ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { reachable } from "./api";
import { Help } from "./help";
import { barrier, PAGES, type Page } from "./pages";
import { focusContent, go, href, segments } from "./router";
import { dismiss, notices, session, signOut, theme, type Theme } from "./state";
import { Dialog } from "./ui/dialog";
import { Icon } from "./ui/icons";
import { Empty, Head, Loading, State } from "./ui/parts";
import { SignIn } from "./views/signin";
import { viewOf } from "./views";

export function Shell() {
  const [isHelp, setHelp] = useState(false);
  const [isOther, setOther] = useState(false);
  const [isOpen, setOpen] = useState(false);
  useKeys(() => setHelp(true));
  useContentAfterSignIn();
  useEffect(() => setOpen(false), [segments.value.join("/")]);
  if (session.value === undefined) {
    return (
      <main class="alone" id="main">
        {reachable.value ? <Loading /> : <Offline />}
      </main>
    );
  }
  if (session.value === null) return <SignIn />;
  return (
    <div class={isOpen ? "shell open" : "shell"}>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), focusContent())}>
        Skip to the content
      </a>
      <Bar onMenu={() => setOpen(!isOpen)} isOpen={isOpen} onHelp={() => setHelp(true)} onOther={() => setOther(true)} />
      <Nav />
      <main id="main" tabIndex={-1}>
        {!reachable.value && <Offline />}
        <View onOther={() => setOther(true)} />
      </main>
      {isHelp && <Help onClose={() => setHelp(false)} />}
      {isOther && (
        <Dialog title="Sign in as well" onClose={() => setOther(false)}>
          <div class="dialog-body">
            <p>A session can hold two users: an operator, who sees nodes, devices and the registry, and one of Ditto's, who sees things under their policies.</p>
            <SignIn inDialog onDone={() => setOther(false)} />
          </div>
        </Dialog>
      )}
      <Notices />
    </div>
  );
}

const Offline = () => (
  <p class="offline" role="alert">
    <State tone="warn">Disconnected</State> The gateway does not answer. What you see is the last that was known; it is tried again by itself.
  </p>
);

function View({ onOther }: { onOther: () => void }) {
  const [head = "", ...rest] = segments.value;
  const page = PAGES.find((one) => one.path === (head === "pods" ? "workloads" : head));
  if (!page) {
    return (
      <>
        <Head title="Not there" />
        <Empty title="There is no such page">
          <a href={href("")}>To the overview</a>
        </Empty>
      </>
    );
  }
  const why = barrier(page);
  return why ? (
    <Barred page={page} why={why} onOther={onOther} />
  ) : (
    <Guard key={segments.value.join("/")} title={page.title}>
      {viewOf(head, rest)}
    </Guard>
  );
}

/** A view that fails takes nothing else with it. */
class Guard extends Component<{ title: string; children: ComponentChildren }, { failed: string | null }> {
  override state = { failed: null as string | null };

  override componentDidCatch(error: unknown): void {
    console.error(error);
    this.setState({ failed: error instanceof Error ? error.message : String(error) });
  }

  override render(): ComponentChildren {
    if (this.state.failed === null) return this.props.children;
    return (
      <>
        <Head title={this.props.title} />
        <Empty title="This view has failed">
          {this.state.failed.slice(0, 300)} <button type="button" onClick={() => this.setState({ failed: null })}>Try again</button>
        </Empty>
      </>
    );
  }
}

function Barred({ page, why, onOther }: { page: Page; why: string; onOther: () => void }) {
  const text = why === "part" ? "This process does not have that part." : why === "ditto" ? "Things are seen under their policies: a user of Ditto has to sign in as well." : "Only operators see this: one has to sign in as well.";
  return (
    <>
      <Head title={page.title} />
      <Empty title={text}>
        {why !== "part" && (
          <button type="button" class="primary" onClick={onOther}>
            Sign in as well
          </button>
        )}
      </Empty>
    </>
  );
}

function Bar({ onMenu, isOpen, onHelp, onOther }: { onMenu: () => void; isOpen: boolean; onHelp: () => void; onOther: () => void }) {
  const who = session.value!;
  const users = [who.operator_user, who.ditto].filter(Boolean).join(" + ");
  return (
    <header class="bar">
      <button type="button" class="quiet icon-only menu" aria-label="Menu" aria-expanded={isOpen} aria-controls="nav" onClick={onMenu}>
        <Icon of={isOpen ? "close" : "menu"} />
      </button>
      <a class="brand" href={href("")}>
        <img src="/console/favicon.svg" width="22" height="22" alt="" /> Twinspan
      </a>
      <span class="grow" />
      <ThemeChoice />
      <button type="button" class="quiet" onClick={onHelp} aria-label="Keys and help">
        ?
      </button>
      <details class="who">
        <summary>
          <bdi>{users}</bdi>
          <Icon of="down" />
        </summary>
        <div class="who-menu">
          <p class="small muted">Operator: {who.operator_user ?? "–"}</p>
          <p class="small muted">Ditto: {who.ditto ?? "–"}</p>
          {(who.operator_user === null || who.ditto === null) && (
            <button type="button" onClick={onOther}>
              Sign in as well
            </button>
          )}
          <button type="button" onClick={() => void signOut()}>
            Sign out
          </button>
        </div>
      </details>
    </header>
  );
}

export function ThemeChoice() {
  const next: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
  return (
    <button type="button" class="quiet" aria-label={`Theme: ${theme.value}; change it`} title={`Theme: ${theme.value}`} onClick={() => (theme.value = next[theme.value])}>
      <Icon of="sun" /> <span class="theme-word">{theme.value}</span>
    </button>
  );
}

function Nav() {
  const groups = [...new Set(PAGES.map((one) => one.group))];
  const here = segments.value[0] === "pods" ? "workloads" : (segments.value[0] ?? "");
  return (
    <nav class="nav" id="nav" aria-label="Views">
      {groups.map((group) => (
        <div key={group} class="nav-group">
          {group && <p class="nav-title">{group}</p>}
          <ul>
            {PAGES.filter((one) => one.group === group && barrier(one) !== "part").map((one) => (
              <li key={one.path}>
                <a href={href(one.path)} aria-current={one.path === here ? "page" : undefined} class={barrier(one) ? "barred" : undefined}>
                  {one.title}
                  <kbd aria-hidden="true">g {one.key}</kbd>
                </a>
              </li>
            ))}
          </ul>
        </div>
      ))}
    </nav>
  );
}

const Notices = (): ComponentChildren => (
  <div class="notices" role="status" aria-live="polite">
    {notices.value.map((one) => (
      <div key={one.id} class={`notice ${one.tone}`}>
        <State tone={one.tone === "bad" ? "bad" : one.tone}>{one.text.slice(0, 400)}</State>
        <button type="button" class="quiet icon-only" aria-label="Dismiss" onClick={() => dismiss(one.id)}>
          <Icon of="close" />
        </button>
      </div>
    ))}
  </div>
);

/** The field that had the focus goes with the form: the content takes over, as it does from view to view. */
function useContentAfterSignIn(): void {
  const isOut = session.value === null;
  const wasOut = useRef(false);
  useLayoutEffect(() => {
    if (wasOut.current && !isOut) focusContent();
    wasOut.current = isOut;
  }, [isOut]);
}

/** `?` helps, `/` searches, `g` and a letter goes to a view. */
function useKeys(onHelp: () => void): void {
  useLayoutEffect(() => {
    let goUntil = 0; // by the page's clock, which begins at 0 with the page
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || document.querySelector("dialog[open]")) return;
      const page = performance.now() < goUntil && PAGES.find((one) => one.key === event.key);
      goUntil = 0;
      if (page) go(href(page.path));
      else if (event.key === "g") goUntil = performance.now() + 1200;
      else if (event.key === "?") onHelp();
      else if (event.key === "/") document.querySelector<HTMLInputElement>("[data-search]")?.focus();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}
