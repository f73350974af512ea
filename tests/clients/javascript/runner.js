// Runs tests one after another. Node's own runner fails on a rejection that the client leaves behind whenever a
// socket is closed on purpose, so this one says which leftovers are known.
'use strict';

const KNOWN = [/Reconnect disabled/, /Unexpected server response: 401/];
const tests = [];
let leftover;

process.on('unhandledRejection', (reason) => {
  if (!KNOWN.some((known) => known.test(String(reason)))) leftover = reason;
});

const test = (name, body) => tests.push({ name, body });

async function passes({ name, body }) {
  leftover = undefined;
  const started = Date.now();
  try {
    await body();
    await new Promise(setImmediate);
    if (leftover !== undefined) throw leftover;
    console.log(`ok - ${name} (${Date.now() - started} ms)`);
    return true;
  } catch (error) {
    console.log(`not ok - ${name}\n${error && error.stack ? error.stack : JSON.stringify(error)}`);
    return false;
  }
}

/** Runs what was registered, then `last`, and ends the process with 0 when all passed. */
async function run(last = () => {}) {
  let failed = 0;
  for (const one of tests) failed += (await passes(one)) ? 0 : 1;
  await last();
  console.log(`${tests.length - failed} passed, ${failed} failed`);
  process.exitCode = failed || tests.length === 0 ? 1 : 0;
}

module.exports = { test, run };
