/** Try an operation with one's own session: send it, or follow its stream. */

import { el } from "./dom.js";
import { example } from "./schema.js";

const EVENTS_SHOWN = 20;

export function attempt(api, path, method, about, streams) {
  const fields = (about.parameters ?? []).map((one) => ({
    about: one,
    input: el("input", {
      name: one.name,
      placeholder: one.required ? "needed" : "",
      "aria-label": one.name,
    }),
  }));
  const schema = about.requestBody?.content?.["application/json"]?.schema;
  const body = schema
    ? el("textarea", { rows: "6", spellcheck: "false", "aria-label": "Body" })
    : null;
  if (body) body.value = JSON.stringify(example(api, schema), null, 2);
  const output = el("pre", { class: "output", hidden: "" });
  const button = el("button", { type: "submit" }, streams ? "Follow" : "Send");
  const form = el(
    "form",
    { class: "attempt" },
    ...fields.map((one) => el("label", {}, el("code", {}, one.about.name), one.input)),
    body,
    button,
    output,
  );
  let source = null;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    output.hidden = false;
    const address = filled(path, fields);
    if (!streams) return send(address, method, body, output);
    if (source) {
      source.close();
      source = null;
      button.textContent = "Follow";
      return;
    }
    button.textContent = "Stop";
    source = listen(address, names(about), output);
  });
  return form;
}

async function send(address, method, body, output) {
  output.textContent = "…";
  const init = { method: method.toUpperCase(), headers: { Accept: "application/json" } };
  if (body) {
    init.body = body.value;
    init.headers["Content-Type"] = "application/json";
  }
  try {
    const response = await fetch(address, init);
    const text = await response.text();
    let shown = text;
    if (response.headers.get("content-type")?.includes("json")) {
      try {
        shown = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // Shown as it came.
      }
    }
    output.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
  } catch (error) {
    output.textContent = `No answer: ${error.message}`;
  }
}

function listen(address, events, output) {
  const lines = ["connecting"];
  const show = (line) => {
    lines.push(line);
    if (lines.length > EVENTS_SHOWN) lines.shift();
    output.textContent = lines.join("\n");
    output.scrollTop = output.scrollHeight;
  };
  const source = new EventSource(address);
  source.addEventListener("open", () => show("open"));
  for (const name of events) {
    source.addEventListener(name, (event) => {
      if (event.data !== undefined) show(`${name}: ${event.data}`);
    });
  }
  source.onerror = () =>
    show(
      source.readyState === EventSource.CLOSED ? "refused: see the answers above" : "reconnecting",
    );
  return source;
}

/** The events that a stream's description names. */
function names(about) {
  const item = about.responses["200"].content["text/event-stream"].itemSchema ?? {};
  const found = (item.oneOf ?? []).map((one) => one.properties?.event?.const).filter(Boolean);
  return [...new Set([...found, "message"])];
}

function filled(path, fields) {
  const query = new URLSearchParams();
  let address = path;
  for (const { about, input } of fields) {
    if (about.in === "path")
      address = address.replace(`{${about.name}}`, encodeURIComponent(input.value));
    else if (about.in === "query" && input.value !== "") query.set(about.name, input.value);
  }
  return `.${address}${query.size ? `?${query}` : ""}`;
}
