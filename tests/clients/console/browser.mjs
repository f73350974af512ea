// A real Chromium and the few steps that every flow is made of.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../../console/package.json", import.meta.url));
const { chromium } = require("playwright-core");
export const axeSource = require.resolve("axe-core/axe.min.js");
export const BASE = process.env.BASE;
export const SHOTS = process.env.TWINSPAN_SCREENSHOTS;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Say something to the test, and wait for its answer. */
export async function ask(word) {
  console.log(`> ${word}`);
  const { value, done } = await lines.next();
  if (done) throw new Error("the test is gone");
  return value;
}

export async function open(options = {}) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => /Content Security Policy|Refused to/.test(message.text()) && errors.push(message.text()));
  page.on("dialog", (dialog) => (errors.push(`a dialog: ${dialog.message()}`), dialog.dismiss()));
  return { browser, context, page, errors };
}

export const address = (path) => `${BASE}/console/${path}`;

/** Sign in over the page's own API, as fast as can be. */
export async function signIn(page, ...users) {
  await page.goto(`${BASE}/console/favicon.svg`);
  for (const [user, password] of users) {
    const status = await page.evaluate(
      async ([user, password]) => (await fetch("/console/api/session", { method: "POST", headers: { "x-twinspan-console": "1", "content-type": "application/json" }, body: JSON.stringify({ user, password }) })).status,
      [user, password],
    );
    assert.equal(status, 200, `${user} signs in`);
  }
}

export const BOTH = [["ditto", "ditto"], ["devops", "foobar"]];

export async function settled(page) {
  await page.waitForSelector("h1");
  await page.waitForFunction(() => !document.querySelector(".loading"), null, { timeout: 15_000 });
}

export async function shot(page, name) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name.replace(/[^\w-]+/g, "-")}.png`) });
}

export async function sidewaysScroll(page) {
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}

/** Run one flow of a table by the name on the command line. */
export async function runFlow(flows) {
  const flow = flows[process.argv[2]];
  if (!flow) throw new Error(`no flow ${process.argv[2]}`);
  const opened = await open(flow.options);
  try {
    await flow.run(opened);
    assert.deepEqual(opened.errors, [], "errors of the page");
    console.log("done");
  } catch (error) {
    await shot(opened.page, `failed-${process.argv[2]}`).catch(() => undefined);
    console.error(error?.stack ?? error);
    console.error(`at ${opened.page.url()}: ${(await opened.page.innerText("body").catch(() => "")).slice(0, 1500)}`);
    console.error(`page errors: ${opened.errors.join("; ")}`);
    process.exitCode = 1;
  } finally {
    await opened.browser.close();
    process.stdin.destroy();
  }
}
