// What operators change and watch in the console, in a real browser. `node operations.mjs NAME`; the test answers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { address, ask, BOTH, runFlow, signIn } from "./browser.mjs";

const OPERATOR = BOTH[1];
const dialog = (page) => page.getByRole("dialog");
const press = (within, name) => within.getByRole("button", { name, exact: true }).click();
const isLive = (page) => page.locator(".stream-mark", { hasText: "live" }).waitFor();

async function accept({ page }) {
  await signIn(page, ...BOTH);
  await page.goto(address("discovered"));
  const rows = page.getByRole("table", { name: "Discovered devices" });
  const row = rows.getByRole("row", { name: /Pump 7/ });
  await row.getByText("new").waitFor();
  assert.match(await row.innerText(), /modbus[\s\S]*unit-7[\s\S]*edge-1/);
  assert.match(await row.innerText(), /just now|ago/);
  await press(row, "Pump 7");
  assert.equal(await dialog(page).getByLabel("Name", { exact: true }).inputValue(), "pump-7");
  await dialog(page).getByLabel("Namespace").fill("plant");
  await dialog(page).getByLabel("Name", { exact: true }).fill("meter-1");
  await press(dialog(page), "Accept");
  await dialog(page).getByRole("alert").getByText("there is another Device plant/meter-1").waitFor();
  await dialog(page).getByLabel("Name", { exact: true }).fill("pump-7");
  await press(dialog(page), "Accept");
  await page.getByRole("heading", { name: "pump-7", level: 1 }).waitFor();
  await page.locator('[data-path="reported/speed"]', { hasText: "42" }).waitFor();
  await page.getByRole("row", { name: /heat/ }).getByText("uncertain").waitFor();
  await page.getByRole("region", { name: "Faults" }).getByText("the device said nan").waitFor();
  await page.goto(address("discovered"));
  await rows.getByRole("row", { name: /Pump 7/ }).getByText("accepted").waitFor();
}

async function tail({ page }) {
  await signIn(page, OPERATOR);
  await page.goto(address("tail"));
  await page.getByLabel("Tenant").fill("DEFAULT_TENANT");
  await page.getByLabel("Tenant").press("Enter");
  await isLive(page);
  const rows = page.getByRole("table", { name: "Messages" });
  await ask("send telemetry");
  const first = rows.getByRole("row", { name: /telemetry/ }).filter({ hasText: '"first":1' });
  await first.getByText("202").waitFor();
  assert.equal(await first.locator(".state.ok").count(), 1);
  await first.getByRole("button").click();
  await dialog(page).getByText('"first": 1').waitFor();
  await press(dialog(page), "Hex");
  await dialog(page).getByText("7b 22 66").waitFor();
  await page.keyboard.press("Escape");
  await press(page, "Pause");
  await page.locator(".stream-mark", { hasText: "paused" }).waitFor();
  await ask("send what nobody sees");
  await page.getByText(/[1-9]\d* messages? a second, telemetry/).waitFor();
  await press(page, "Go on");
  await ask("send what is seen");
  await rows.getByText('"third":3').waitFor();
  assert.equal(await rows.getByText('"second":2').count(), 0);
  await page.getByLabel("Kind").selectOption("event");
  await isLive(page);
  await rows.getByText("Nothing came yet").waitFor();
  await ask("send both kinds");
  await rows.getByRole("row", { name: /event/ }).getByText("door opened").waitFor();
  assert.equal(await rows.getByRole("row", { name: /telemetry/ }).count(), 0);
  await page.getByLabel("Kind").selectOption("");
  await page.getByLabel("Device").fill("nobody");
  await page.waitForFunction(() => location.search.includes("device=nobody"));
  await isLive(page);
  await page.getByLabel("Device").fill("");
  await page.getByLabel("Shown at most").selectOption("5");
  await page.waitForFunction(() => location.search.includes("rate=5"));
  await page.waitForTimeout(200);
  await isLive(page);
  await ask("send a flood");
  await page.getByText(/not shown/).waitFor();
}

const json = (page) => dialog(page).getByLabel("JSON");

async function registry({ page }) {
  await signIn(page, OPERATOR);
  await page.goto(address("registry"));
  await press(page, "New tenant");
  await dialog(page).getByLabel("Tenant id").fill("shop");
  await json(page).fill('{"enabled": tru');
  await press(dialog(page), "Create");
  await dialog(page).getByRole("alert").first().waitFor();
  await json(page).fill('{"ext": {"city": "Graz"}}');
  await press(dialog(page), "Create");
  await page.getByRole("heading", { name: "shop", level: 1 }).waitFor();
  await press(page, "New device");
  await dialog(page).getByLabel("Device id").fill("till-1");
  await press(dialog(page), "Create");
  await page.getByRole("heading", { name: "till-1", level: 1 }).waitFor();
  const credentials = page.getByRole("region", { name: "Credentials" });
  await credentials.getByText("cannot log in").waitFor();
  await press(credentials, "Edit");
  await json(page).fill('[{"type": "hashed-password", "auth-id": "till", "secrets": [{"pwd-plain": "open sesame"}]}]');
  await press(dialog(page), "Save");
  await credentials.getByRole("row", { name: /till/ }).getByText("in use").waitFor();
  assert.equal(await ask("log in"), "202");
  await press(page.locator(".view-head"), "Edit");
  await json(page).filter({ visible: true }).waitFor();
  await ask("change the device meanwhile");
  await json(page).fill('{"enabled": true, "ext": {"mine": 1}}');
  await press(dialog(page), "Save");
  await dialog(page).getByText("Somebody else changed it meanwhile").waitFor();
  await press(dialog(page), "Cancel");
  await page.reload();
  await page.getByText('"theirs": 1').waitFor();
  await press(page.locator(".view-head"), "Edit");
  await json(page).fill('{"enabled": false, "ext": {"mine": 1}}');
  await press(dialog(page), "Save");
  await page.getByText('"mine": 1').waitFor();
  assert.equal(await ask("log in"), "404");
  await remove(page, "till-1");
  await page.getByText("The tenant has no devices").waitFor();
  await remove(page, "shop");
  await page.getByRole("heading", { name: "Tenants", level: 1 }).waitFor();
  await page.getByRole("link", { name: "DEFAULT_TENANT" }).waitFor();
  assert.equal(await page.getByRole("link", { name: "shop" }).count(), 0);
}

/** Delete what is shown: not without its name. */
async function remove(page, name) {
  await press(page.locator(".view-head"), "Delete …");
  await dialog(page).getByRole("textbox").fill("something else");
  await press(dialog(page), "Delete");
  await dialog(page).getByRole("alert").getByText(`Type ${name} to go on`).waitFor();
  await dialog(page).getByRole("textbox").fill(name);
  await press(dialog(page), "Delete");
  await dialog(page).waitFor({ state: "detached" });
}

async function connections({ page }) {
  await signIn(page, OPERATOR);
  await page.goto(address("connections"));
  await page.getByRole("searchbox").fill("c2e");
  await page.getByRole("table", { name: "Connections" }).getByRole("link").first().click();
  const head = page.locator(".view-head");
  await head.getByText("open", { exact: true }).waitFor();
  await press(head, "Close …");
  await press(dialog(page), "Close it");
  await head.getByText("closed", { exact: true }).waitFor();
  await press(head, "Open");
  await head.getByText("open", { exact: true }).waitFor();
  await page.getByRole("table", { name: "Status of the parts" }).getByRole("row").nth(1).waitFor();
  await page.getByRole("tab", { name: "Logs" }).click();
  await press(page, "Keep logs for a day");
  await page.getByText("kept until").waitFor();
  await ask("upload");
  const logs = page.getByRole("table", { name: "Logs" });
  await logs.getByRole("row").nth(1).getByText("success").waitFor();
  await press(page, "Empty");
  await page.getByRole("tab", { name: "Metrics" }).click();
  await page.getByRole("table", { name: "Messages" }).getByRole("row", { name: /inbound/ }).first().waitFor();
}

async function pods({ page }) {
  await signIn(page, OPERATOR);
  await page.goto(address("workloads"));
  const deployments = page.getByRole("table", { name: "Deployment" });
  const found = page.getByRole("table", { name: "Pods" });
  await found.getByRole("row", { name: /ticker.*Running/ }).getByRole("link").click();
  const log = page.getByRole("log");
  await isLive(page);
  await log.getByText(/tick 3 /).waitFor();
  await page.getByRole("searchbox").fill("tick 2 ");
  await page.waitForFunction(() => /^tick 2 [^\n]*$/.test(document.querySelector("[role=log]").innerText.trim()));
  const [file] = await Promise.all([page.waitForEvent("download"), press(page, "Download")]);
  const text = readFileSync(await file.path(), "utf8");
  assert.match(file.suggestedFilename(), /^ticker-.*\.log$/);
  assert.match(text, /^tick 1 of the pod/);
  await page.getByRole("searchbox").fill("");
  await page.getByLabel("Follow").uncheck();
  await page.locator(".stream-mark", { hasText: "ended" }).waitFor();
  const name = await page.getByRole("heading", { level: 1 }).innerText();
  await remove(page, name);
  await page.getByRole("heading", { name: "Workloads", level: 1 }).waitFor();
  await found.getByRole("link", { name }).waitFor({ state: "detached" });
  await press(deployments, "ticker");
  await dialog(page).getByLabel("Replicas").fill("2");
  await press(dialog(page), "Scale");
  await deployments.getByRole("row", { name: /ticker.*2 \/ 2/ }).waitFor();
  await press(deployments, "ticker");
  await press(dialog(page), "Restart …");
  await press(dialog(page), "Restart");
  await page.getByText("ticker restarts").waitFor();
  assert.equal(await ask("was it restarted"), "yes");
}

await runFlow({ accept: { run: accept }, tail: { run: tail }, registry: { run: registry }, connections: { run: connections }, pods: { run: pods } });
