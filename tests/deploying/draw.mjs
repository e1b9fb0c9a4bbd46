// Draws digits on the example's page in a real browser: node draw.mjs NODE_MODULES BROWSER ADDRESS SCREENSHOT.png.
// Prints what the page answered, and what it asked for from elsewhere or complained of.

import { createRequire } from "node:module";

const [modules, executablePath, address, screenshot] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const circle = Array.from({ length: 33 }, (_, at) => [0.5 + 0.22 * Math.sin(at * Math.PI / 16), 0.5 - 0.35 * Math.cos(at * Math.PI / 16)]);
const DIGITS = {
  0: [circle],
  1: [[[0.38, 0.3], [0.52, 0.15], [0.52, 0.85]]],
  4: [[[0.5, 0.15], [0.3, 0.55], [0.7, 0.55]], [[0.6, 0.4], [0.6, 0.85]]],
  7: [[[0.3, 0.2], [0.7, 0.2], [0.45, 0.85]]],
};
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
const page = await browser.newPage({ viewport: { width: 1024, height: 900 } });
const [elsewhere, complaints] = [[], []];
page.on("request", (request) => new URL(request.url()).origin === new URL(address).origin || elsewhere.push(request.url()));
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));
await page.goto(address);
await page.getByText("Nothing is drawn yet").waitFor();
const box = await page.locator("#paper").boundingBox();
const answers = {};
for (const [digit, strokes] of Object.entries(DIGITS)) {
  await page.getByRole("button", { name: "Clear" }).click();
  await page.getByText("Nothing is drawn yet").waitFor();
  for (const [first, ...rest] of strokes) {
    await page.mouse.move(box.x + first[0] * box.width, box.y + first[1] * box.height);
    await page.mouse.down();
    for (const [x, y] of rest) await page.mouse.move(box.x + x * box.width, box.y + y * box.height, { steps: 5 });
    await page.mouse.up();
  }
  await page.waitForTimeout(300);
  const best = await page.locator(".class.best").evaluateAll((rows) => rows.map((row) => Number(row.dataset.digit)));
  answers[digit] = { said: await page.locator("#answer").textContent(), best };
}
await page.screenshot({ path: screenshot, fullPage: true });
await page.setViewportSize({ width: 390, height: 844 });
await page.emulateMedia({ colorScheme: "dark" });
await page.waitForTimeout(300);
await page.screenshot({ path: screenshot.replace(".png", ".phone.png"), fullPage: true });
await browser.close();
console.log(JSON.stringify({ answers, elsewhere, complaints }));
