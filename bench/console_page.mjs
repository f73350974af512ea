// Loads the console's built page in Chromium against answers made here, and an empty page beside it. Prints JSON.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const [web, count, runs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const require = createRequire(new URL("../console/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const TYPES = { js: "text/javascript", css: "text/css", svg: "image/svg+xml", html: "text/html" };
const session = { user: "devops", operator: true, ditto: null, operator_user: "devops", expires: 2e9, idle: 1800 };
const overview = { version: "0", uptime: 1, healthy: true, parts: { kube: true }, versions: {}, mode: {}, counts: { devices: count } };
const device = (nth) => ({ namespace: "default", name: `device-${String(nth).padStart(5, "0")}`, node: `node-${nth % 100}`, model: "meter-model", protocol: "modbus", state: nth % 50 ? "online" : "offline", last_online: "2026-01-01T00:00:00Z", faults: 0, properties: 3, thing: `default:device-${nth}`, description: "", version: "1" });
const all = Array.from({ length: count }, (_, nth) => device(nth));

function answer(url) {
  const name = url.pathname.replace("/console/api/", "");
  if (name === "session") return session;
  if (name === "overview") return overview;
  if (name === "nodes") return { items: [] };
  if (name !== "devices") return null;
  const from = Number(url.searchParams.get("continue") ?? 0);
  const to = Math.min(count, from + 500);
  return { items: all.slice(from, to), total: count, continue: to < count ? String(to) : null };
}

const server = createServer((request, response) => {
  const url = new URL(request.url, "http://bench");
  if (url.pathname === "/empty") return void response.setHeader("content-type", "text/html").end("<!doctype html><title>empty</title><p>empty");
  if (url.pathname.startsWith("/console/api/events")) return void response.writeHead(200, { "content-type": "text/event-stream" }).write('event: hello\ndata: {"kinds":[]}\n\n');
  if (url.pathname.startsWith("/console/api/")) {
    const body = answer(url);
    return void response.writeHead(body ? 200 : 404, { "content-type": "application/json" }).end(JSON.stringify(body ?? {}));
  }
  const file = url.pathname.includes("/assets/") || url.pathname.endsWith(".svg") ? url.pathname.replace("/console/", "") : "index.html";
  response.setHeader("content-type", TYPES[file.split(".").pop()] ?? "text/plain");
  response.end(readFileSync(join(web, file)));
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const base = `http://127.0.0.1:${server.address().port}`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

async function measure(path, isThere) {
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 800 } })).newPage();
  const client = await page.context().newCDPSession(page);
  const began = performance.now();
  await page.goto(base + path);
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  if (isThere) await page.waitForFunction(isThere);
  const full = performance.now() - began;
  await client.send("HeapProfiler.collectGarbage");
  const { usedSize } = await client.send("Runtime.getHeapUsage");
  const rows = await page.evaluate(() => document.querySelectorAll('[role="row"]').length);
  await page.context().close();
  return { paint, full, heap: usedSize, rows };
}

const found = [];
for (let run = 0; run < runs; run += 1) {
  const empty = await measure("/empty");
  const list = await measure("/console/devices", "document.querySelector('[aria-rowcount]')?.getAttribute('aria-rowcount') === '" + (count + 1) + "' && !document.body.innerText.includes('loaded')");
  found.push({ empty, list });
}
console.log(JSON.stringify(found));
await browser.close();
server.closeAllConnections();
server.close();
