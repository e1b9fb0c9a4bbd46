// Looks at pages in a browser at the widths of a desktop and of a phone, in light and in dark, with axe-core:
// node axe.mjs BROWSER NODE_MODULES PICTURES PAGE.html ...; one line of JSON for each look.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [executablePath, modules, pictures, ...pages] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "none.js"));
const { chromium } = require("playwright-core");
const rules = readFileSync(join(modules, "axe-core", "axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] }); // a container's root has no other way
for (const page of pages) {
  for (const width of [1440, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, bypassCSP: true });
      const tab = await context.newPage();
      const begun = Date.now();
      await tab.goto(pathToFileURL(resolve(page)).href);
      const loaded = Date.now() - begun;
      const overflow = await tab.evaluate(() => Math.max(0, document.documentElement.scrollWidth - innerWidth));
      await tab.evaluate(rules);
      const found = await tab.evaluate(() => axe.run());
      const picture = join(pictures, `${basename(page)}.${width}.${colorScheme}.png`);
      await tab.screenshot({ path: picture, fullPage: true });
      const violations = found.violations.map(({ id, impact, help, nodes }) => ({
        id, impact, help, where: nodes.slice(0, 3).map((node) => node.html.slice(0, 200)),
      }));
      console.log(JSON.stringify({ page, width, colorScheme, loaded, overflow, passed: found.passes.length, violations }));
      await context.close();
    }
  }
}
await browser.close();
