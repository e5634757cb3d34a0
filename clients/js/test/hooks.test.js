/** What the how-to pages print for pages: hooks for React and Vue, and a question to a model. */

import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { Window } from "happy-dom";
import { createServer } from "node:http";
import { expect, test } from "vitest";
import { numbers, serving, until } from "./server.js";

// A document for the frameworks; the network stays Node's own.
const window = new Window();
for (const name of ["document", "Element", "HTMLElement", "HTMLIFrameElement", "Node", "SVGElement"]) {
  globalThis[name] = window[name];
}
globalThis.window = globalThis;
globalThis.navigator ??= { userAgent: "Node" };
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { createApp, h } = await import("vue");

const PAGES = new URL("../../../docs/how-to/", import.meta.url);
const MADE = new URL("./made/", import.meta.url);

/** A block of the page that is a file, imported; the package's name leads to the module here. */
async function printed(name, page = "browser.md") {
  const text = readFileSync(new URL(page, PAGES), "utf8");
  const [, code] = new RegExp(`\`\`\`js\n// ${name}\n([^]*?)\`\`\``).exec(text);
  mkdirSync(MADE, { recursive: true });
  const file = new URL(name, MADE);
  writeFileSync(file, code.replace('"headwater"', '"../../headwater.js"'));
  return import(file.pathname);
}

async function shows(mount) {
  const server = await serving();
  server.add(...numbers(2));
  const root = document.createElement("div");
  const unmount = await mount(server.url, root);
  await until(() => root.textContent === "live 0 1");
  server.add(...numbers(2, 2));
  await until(() => root.textContent === "live 0 1 2 3");
  server.cut();
  server.add(...numbers(1, 4));
  await until(() => root.textContent === "live 0 1 2 3 4");
  await unmount();
  await until(() => server.streams.size === 0);
  await server.stop();
}

const words = (state, items) => [state, ...items.map(({ n }) => n)].join(" ");

test("React", async () => {
  const { useList } = await printed("react.js");
  await shows(async (url, element) => {
    const Shown = () => {
      const { items, state } = useList(url, { tabs: false });
      return words(state, items);
    };
    const root = createRoot(element);
    root.render(createElement(Shown));
    return () => root.unmount();
  });
});

test("Vue", async () => {
  const { useList } = await printed("vue.js");
  await shows(async (url, element) => {
    const app = createApp({
      setup() {
        const { items, state } = useList(url, { tabs: false });
        return () => h("span", words(state.value, items.value));
      },
    });
    app.mount(element);
    return () => app.unmount();
  });
});

const delta = (text) => `event: delta\ndata: ${JSON.stringify({ text })}\n\n`;
const END = 'event: end\ndata: {"finish":"stop"}\n\n';

test.each([
  ["whole", delta("to ") + delta("be") + END, "to be", "stop"],
  ["that breaks off", delta("to "), "to ", "Error: The answer broke off."],
  ["that fails", 'event: error\ndata: {"status":500}\n\n', "", "Error: The answer failed with 500."],
])("An answer %s", async (_, body, text, outcome) => {
  const { ask } = await printed("ask.js", "language-models.md");
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request.method);
    response.writeHead(200, { "Content-Type": "text/event-stream" }).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  let said = "";
  const url = `http://127.0.0.1:${server.address().port}/answers`;
  const end = await ask(url, "To be?", (words) => (said += words)).catch(String);
  expect([said, end]).toEqual([text, outcome]);
  expect(asked).toEqual(["POST"]);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});
