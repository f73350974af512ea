// What people do with the console, in a real browser. `node flows.mjs NAME`; the test answers its questions.
import assert from "node:assert/strict";
import { address, ask, BASE, BOTH, runFlow, settled, shot, sidewaysScroll, signIn } from "./browser.mjs";

const value = (page, path) => page.locator(`[data-path="${path}"]`);

async function signInAndOut({ page }) {
  await page.goto(address("things"));
  await page.getByLabel("User").fill("ditto");
  await page.getByLabel("Password").fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  assert.equal(await page.getByLabel("Password").inputValue(), "");
  await page.getByLabel("Password").fill("ditto");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Things", level: 1 }).waitFor();
  await page.getByRole("link", { name: "org.acme:4711" }).waitFor();
  await page.goto(address("fleet"));
  await page.getByText("Only operators see this").waitFor();
  await page.getByRole("main").getByRole("button", { name: "Sign in as well" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("User").fill("devops");
  await dialog.getByLabel("Password").fill("foobar");
  await dialog.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Fleet", level: 1 }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Fleet", level: 1 }).waitFor();
  await page.locator(".who summary").click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Password").waitFor();
  await page.goto(address("devices"));
  await page.getByLabel("Password").waitFor();
}

async function valueChanges({ page }) {
  await signIn(page, ["ditto", "ditto"]);
  await page.goto(address("things/org.acme:4711"));
  await page.locator(".stream-mark", { hasText: "live" }).waitFor();
  const sent = await ask("upload");
  const shown = value(page, "/features/temperature/properties/value").filter({ hasText: sent });
  await shown.waitFor();
  assert.match((await shown.getAttribute("class")) ?? "", /lit/);
  await page.getByRole("tab", { name: "History" }).click();
  await page.getByRole("table", { name: "Changes" }).getByText(sent).first().waitFor();
  await page.locator(".plot-box canvas").first().waitFor();
}

async function desired({ page }) {
  await signIn(page, ...BOTH);
  await page.goto(address("devices/plant/meter-1"));
  await page.getByRole("button", { name: "Set desired level" }).click();
  await page.getByRole("dialog").getByLabel("Value").fill("7");
  await page.getByRole("dialog").getByRole("button", { name: "Set" }).click();
  await value(page, "desired/level").filter({ hasText: /^7$/ }).waitFor();
  await ask("report");
  await value(page, "reported/level").filter({ hasText: /^7$/ }).waitFor();
  await page.goto(address("things/plant:meter-1"));
  await value(page, "/features/level/properties/value").filter({ hasText: /^7$/ }).waitFor();
  await page.getByText("in step").waitFor();
  await page.goto(address("devices"));
  await page.getByRole("searchbox").fill("meter-2");
  await page.getByRole("link", { name: "meter-2" }).waitFor();
  await page.getByRole("link", { name: "meter-1" }).waitFor({ state: "detached" });
}

async function editWithConflict({ page }) {
  await signIn(page, ["ditto", "ditto"]);
  await page.goto(address("things/org.acme:4711?tab=attributes"));
  await page.getByRole("button", { name: "Edit location" }).click();
  const dialog = page.getByRole("dialog");
  const field = dialog.getByLabel("Value");
  await field.waitFor();
  await ask("change it meanwhile");
  await field.fill('"Mine"');
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByText("Somebody else changed it meanwhile").waitFor();
  await dialog.getByText('"Theirs"').waitFor();
  await dialog.getByRole("button", { name: "Replace it with mine" }).click();
  await value(page, "/attributes/location").filter({ hasText: /^Mine$/ }).waitFor();
}

async function search({ page }) {
  await signIn(page, ["ditto", "ditto"]);
  await page.goto(address("things"));
  const field = page.getByRole("searchbox");
  const rows = page.getByRole("table", { name: "Things" });
  await field.fill('eq(attributes/kind,"pump")');
  await page.getByText("2 found").waitFor();
  await rows.getByRole("link", { name: "find:pump-1" }).waitFor();
  assert.equal(await rows.getByRole("link").count(), 2);
  await field.fill('eq(attributes/kind "pump")');
  await page.getByRole("alert").getByText("at position").waitFor();
  assert.equal(await page.locator(".wrong mark").innerText(), '"');
  await field.fill("pump-2");
  await page.getByText("1 found").waitFor();
  await page.getByRole("button", { name: "Query builder" }).click();
  await page.getByLabel("Field 1").fill("attributes/pressure");
  await page.getByLabel("Comparison 1").selectOption("gt");
  await page.getByLabel("Value 1").fill("4");
  await page.getByRole("group", { name: "All of these hold" }).getByRole("button", { name: "Search" }).click();
  await rows.getByRole("link", { name: "find:pump-1" }).waitFor();
  await rows.getByRole("link", { name: "find:pump-2" }).waitFor({ state: "detached" });
  assert.match(decodeURIComponent(page.url()), /q=gt\(attributes\/pressure,4\)/);
  await page.reload();
  await rows.getByRole("link", { name: "find:pump-1" }).click();
  await page.getByRole("heading", { name: "find:pump-1", level: 1 }).waitFor();
  await page.getByRole("tab", { name: "Policy" }).click();
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByText("READ: unrestricted").waitFor();
}

async function command({ page }) {
  await signIn(page, ...BOTH);
  await page.goto(address("commands"));
  await page.getByRole("combobox", { name: "Thing" }).fill("org.acme:4711");
  await page.getByRole("link", { name: "Open the thing" }).waitFor();
  await page.locator(".stream-mark", { hasText: "live" }).waitFor();
  const form = page.getByRole("form", { name: "Message" });
  await form.getByLabel("Subject").fill("dim");
  await form.getByLabel("Payload").fill('{"level": 3}');
  await form.getByRole("button", { name: "Send" }).click();
  const sent = page.getByRole("list", { name: "Messages that were sent" });
  await sent.getByText("waiting for the answer").waitFor();
  await ask("answer");
  await sent.getByText("answered 200").waitFor();
  await sent.getByText('"dimmed": 3').waitFor();
  const way = page.getByRole("table", { name: "Commands and responses" });
  await way.getByRole("row", { name: /command/ }).first().waitFor();
  await way.getByRole("row", { name: /response/ }).first().waitFor();
  await form.getByLabel("Wait for an answer").fill("0");
  await form.getByRole("button", { name: "Send" }).click();
  await sent.getByText("sent (202)").waitFor();
}

async function nodeGoes({ page }) {
  await signIn(page, ...BOTH);
  await page.goto(address("fleet"));
  const row = page.getByRole("table", { name: "Nodes" }).getByRole("row", { name: /edge-1/ });
  await row.getByText("connected").waitFor();
  await page.locator(".stream-mark", { hasText: "live" }).waitFor();
  await ask("kill the edge");
  await row.getByText("offline").waitFor();
  await page.getByText("edge-1: link lost").waitFor();
  await row.getByRole("link").click();
  await page.getByRole("region", { name: "Link history" }).getByText("link lost").waitFor();
  await ask("start it again");
  await page.getByRole("region", { name: "Link history" }).getByText("connected", { exact: true }).waitFor();
}

const MARKS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/;

async function hostile({ page }) {
  await signIn(page, ...BOTH);
  for (const path of ["things?q=evil", "things/evil:thing", "things/evil:thing?tab=attributes", "things/evil:thing?tab=json", "things/evil:thing?tab=history", "devices/plant/meter-1"]) {
    await page.goto(address(path));
    await settled(page);
    await page.waitForFunction(() => /evil|<img/.test(document.querySelector("main").innerText));
    const text = await page.locator("main").innerText();
    assert.doesNotMatch(text, MARKS, `direction marks and controls at ${path}`);
    assert.equal(await page.locator("main img, main script, main iframe").count(), 0, `elements of a device at ${path}`);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.ok(text.length < 80_000, `${path} is ${text.length} long`);
    assert.ok((await sidewaysScroll(page)) <= 0, `${path} scrolls sideways`);
    await shot(page, `hostile-${path}`);
  }
}

async function keyboard({ page }) {
  const press = (...keys) => keys.reduce((before, key) => before.then(() => page.keyboard.press(key)), Promise.resolve());
  const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent ?? "");
  await page.goto(`${BASE}/`);
  await page.waitForFunction(() => document.activeElement?.name === "username");
  await page.keyboard.type("ditto");
  await press("Tab");
  await page.keyboard.type("ditto");
  await press("Enter");
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  await page.waitForFunction(() => document.activeElement?.id === "main");
  await press("?");
  const keys = page.getByRole("dialog", { name: "Keys" });
  await keys.waitFor();
  await press("Escape");
  await keys.waitFor({ state: "detached" });
  await page.reload(); // keys are heard from the first moment of a page on
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  await press("Tab");
  assert.match(await focused(), /Skip to the content/);
  await press("Enter");
  await page.waitForFunction(() => document.activeElement?.id === "main");
  await press("?");
  await keys.waitFor();
  await press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await press("g", "t");
  await page.getByRole("heading", { name: "Things", level: 1 }).waitFor();
  await page.getByRole("link", { name: "find:pump-1" }).waitFor();
  await press("/");
  assert.match(await focused(), /Search things/);
  await page.keyboard.type("pump");
  await page.getByText("2 found").waitFor();
  for (let nth = 0; nth < 12 && !(await page.evaluate(() => document.activeElement?.hasAttribute("data-at"))); nth += 1) await press("Tab");
  assert.match(await focused(), /find:pump-1/);
  await press("ArrowDown");
  await page.waitForFunction(() => document.activeElement?.textContent?.includes("find:pump-2"));
  await press("Home");
  await page.waitForFunction(() => document.activeElement?.textContent?.includes("find:pump-1"));
  await press("Enter");
  await page.getByRole("heading", { name: "find:pump-1", level: 1 }).waitFor();
  await page.getByRole("tab", { name: "Features" }).focus();
  await press("ArrowRight");
  await page.waitForFunction(() => document.activeElement?.id === "tab-attributes");
  const edit = page.getByRole("button", { name: "Edit kind" });
  await edit.focus();
  await press("Enter");
  await page.getByRole("dialog").getByLabel("Value").waitFor();
  await press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.match(await focused(), /Edit kind/);
}

async function lineLost({ page }) {
  await signIn(page, ["ditto", "ditto"]);
  await page.goto(address("things/org.acme:4711"));
  await page.locator(".stream-mark", { hasText: "live" }).waitFor();
  await ask("stop the gateway");
  await page.locator(".stream-mark", { hasText: "reconnecting" }).waitFor();
  await page.getByText("Disconnected").waitFor();
  await page.getByRole("heading", { name: "org.acme:4711", level: 1 }).waitFor();
  await ask("start it again");
  await page.getByText("Disconnected").waitFor({ state: "detached" });
  await Promise.race([page.locator(".stream-mark", { hasText: "live" }).waitFor(), page.getByLabel("Password").waitFor()]);
}

const run = (flow, options) => ({ run: flow, options });
const MOVING = { reducedMotion: "no-preference" };

await runFlow({
  "sign-in": run(signInAndOut),
  value: run(valueChanges, MOVING),
  desired: run(desired),
  conflict: run(editWithConflict),
  search: run(search),
  command: run(command),
  node: run(nodeGoes),
  hostile: run(hostile),
  keyboard: run(keyboard),
  lost: run(lineLost),
});
