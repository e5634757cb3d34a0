/** The API's reference: what /openapi.json says, plainly. */

import { attempt } from "./attempt.js";
import { el, inline, prose } from "./dom.js";
import { shape } from "./schema.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

const main = document.getElementById("operations");
const contents = document.getElementById("contents");

async function start() {
  let api;
  try {
    const response = await fetch("./openapi.json");
    if (!response.ok) throw new Error(`The server answered ${response.status}.`);
    api = await response.json();
  } catch (error) {
    main.replaceChildren(el("p", {}, `The description cannot be loaded. ${error.message}`));
    return;
  }
  document.getElementById("version").textContent = api.info.version;
  main.replaceChildren(prose(api.info.description));
  for (const [tag, operations] of byTag(api)) {
    const id = anchor(tag);
    main.append(
      el(
        "section",
        { id, "data-section": "" },
        el("h2", {}, title(tag)),
        ...operations.map((one) => one.element),
      ),
    );
    contents.append(
      el("h3", {}, el("a", { href: `#${id}` }, title(tag))),
      el("ul", {}, ...operations.map((one) => one.entry)),
    );
  }
  follow();
}

/** Operations by their first tag, in the document's order: [tag, [{element, entry}]]. */
function byTag(api) {
  const found = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = item[method].tags?.[0] ?? "other";
      if (!found.has(tag)) found.set(tag, []);
      found.get(tag).push(operation(api, path, method, item[method]));
    }
  }
  return found;
}

function operation(api, path, method, about) {
  const id = anchor(`${method} ${path}`);
  const streams = Boolean(about.responses?.["200"]?.content?.["text/event-stream"]);
  const verb = streams ? "sse" : method;
  const head = el(
    "summary",
    {},
    el("span", { class: `verb ${verb}` }, streams ? "SSE" : method.toUpperCase()),
    el("code", {}, path),
    el("span", { class: "faint" }, about.summary ?? ""),
  );
  const body = el("div", { class: "about" });
  const element = el(
    "details",
    { id, "data-find": `${method} ${path} ${about.summary ?? ""}`.toLowerCase() },
    head,
    body,
  );
  // Made when it is first opened: most never are.
  element.addEventListener("toggle", () => {
    if (element.open && !body.hasChildNodes())
      body.append(...details(api, path, method, about, streams));
  });
  const entry = el(
    "li",
    {},
    el(
      "a",
      { href: `#${id}` },
      el("span", { class: `verb ${verb}` }, streams ? "SSE" : method),
      path.replace(/^\/api/, ""),
    ),
  );
  return { element, entry };
}

function details(api, path, method, about, streams) {
  const parts = [];
  if (about.description) parts.push(prose(about.description));
  parts.push(
    el(
      "p",
      { class: "faint" },
      about.security?.length ? "Needs a session cookie or an API key." : "Open to everyone.",
    ),
  );
  if (about.parameters?.length)
    parts.push(el("h4", {}, "Parameters"), parameters(api, about.parameters));
  const body = about.requestBody?.content?.["application/json"]?.schema;
  if (body) parts.push(el("h4", {}, "Body"), shape(api, body));
  parts.push(el("h4", {}, "Answers"), answers(api, about.responses ?? {}));
  parts.push(el("h4", {}, "Try it"), attempt(api, path, method, about, streams));
  return parts;
}

function parameters(api, list) {
  const rows = list.map((one) =>
    el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el("code", {}, one.name),
        one.required ? el("span", { class: "needed" }, " needed") : null,
      ),
      el("td", {}, one.in),
      el("td", {}, shape(api, given(one.schema ?? {}))),
      el("td", {}, ...inline(one.description)),
    ),
  );
  return el("table", {}, el("tbody", {}, ...rows));
}

/** A parameter that is left out is not sent at all, so its null says nothing. */
function given(schema) {
  const choices = schema.anyOf?.filter((one) => one.type !== "null");
  return choices?.length === 1 ? choices[0] : schema;
}

function answers(api, responses) {
  return el(
    "div",
    {},
    ...Object.keys(responses)
      .sort()
      .map((status) => {
        const answer = responses[status];
        const schemas = Object.entries(answer.content ?? {}).flatMap(([type, media]) => {
          const schema = media.itemSchema ?? media.schema;
          return schema && Number(status) < 400
            ? [el("p", { class: "faint" }, type), shape(api, schema)]
            : [];
        });
        return el(
          "div",
          { class: "answer" },
          el("p", {}, el("strong", {}, status), " ", ...inline(answer.description)),
          ...schemas,
        );
      }),
  );
}

/** Open what the address names, now and when it changes. */
function follow() {
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();
  document.getElementById("search").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const one of main.querySelectorAll("[data-find]"))
      one.hidden = !one.dataset.find.includes(wanted);
    for (const section of main.querySelectorAll("[data-section]")) {
      section.hidden = !section.querySelector("details:not([hidden])");
    }
  });
}

const title = (tag) => tag.charAt(0).toUpperCase() + tag.slice(1);
const anchor = (text) => text.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");

start();
