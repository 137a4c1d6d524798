// A browser signed in to the admin that listens with EventSource, in a page of the gateway's: prints
// what happens to it, a line of JSON each, until its input ends.
import { chromium } from "playwright-core";

const [url, executablePath, password, ...types] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage();
const say = (line) => console.log(JSON.stringify(line));

page.on("pageerror", (error) => say({ happened: "error", message: String(error) }));
await page.exposeFunction("say", say);
await page.goto(`${url}/admin/login/`);
await page.fill("[name=username]", "admin");
await page.fill("[name=password]", password);
await Promise.all([page.waitForURL(`${url}/admin/`), page.press("[name=password]", "Enter")]);

await page.evaluate((types) => {
  document.addEventListener("securitypolicyviolation", (event) =>
    say({ happened: "violation", message: event.violatedDirective }),
  );
  const events = new EventSource("/v1/events/stream");
  events.addEventListener("open", () => say({ happened: "open" }));
  for (const type of types) {
    events.addEventListener(type, (event) =>
      say({ happened: type, id: Number(event.lastEventId), data: JSON.parse(event.data) }),
    );
  }
}, types);

process.stdin.resume();
process.stdin.on("end", async () => {
  await browser.close();
  process.exit();
});
