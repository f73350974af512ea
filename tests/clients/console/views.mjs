// Each view in both themes and several widths: no violation of WCAG AA, no scrolling sideways; screenshots where wanted.
import assert from "node:assert/strict";
import { address, axeSource, BOTH, runFlow, settled, shot, sidewaysScroll, signIn, SHOTS } from "./browser.mjs";

const VIEWS = (process.env.VIEWS ?? "").split(" ").map((one) => (one === "." ? "" : one));
const RULES = { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] };

/** All rules in the first theme; in the other one those that colours can break. */
async function violations(page, theme) {
  if (theme === "light") await page.addScriptTag({ path: axeSource });
  const rules = theme === "light" ? RULES : { runOnly: ["color-contrast"] };
  const { violations: found } = await page.evaluate((chosen) => window.axe.run(document, chosen), rules);
  return found.map((one) => `${one.impact} ${one.id}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
}

async function walk({ page }, isSignedIn) {
  const found = [];
  for (const view of VIEWS) {
    await page.goto(address(view));
    if (isSignedIn) await settled(page);
    else await page.getByLabel("Password").waitFor();
    for (const theme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: theme });
      await page.setViewportSize({ width: 1280, height: 800 });
      found.push(...(await violations(page, theme)).map((one) => `${view || "overview"}, ${theme}: ${one}`));
      for (const width of SHOTS ? [360, 1280, 2560] : [360]) {
        await page.setViewportSize({ width, height: width === 360 ? 760 : width === 2560 ? 1440 : 800 });
        await page.waitForTimeout(60);
        const over = await sidewaysScroll(page);
        if (over > 0) found.push(`${view || "overview"} scrolls sideways by ${over} at ${width}`);
        await shot(page, `${isSignedIn ? view || "overview" : "sign-in"}-${theme}-${width}`);
      }
    }
  }
  assert.deepEqual(found, []);
}

// axe is put into the page by the test: the page's own policy would refuse it.
const options = { bypassCSP: true };
await runFlow({
  outside: { run: (opened) => walk(opened, false), options },
  inside: {
    run: async (opened) => {
      await signIn(opened.page, ...BOTH);
      await walk(opened, true);
    },
    options,
  },
});
