/** A JSON schema as a short, readable shape. */

import { el } from "./dom.js";

const DEEPEST = 6;

/** `{ id: string, at?: string (date-time) }` and the like, as an element. */
export function shape(api, schema) {
  const text = written(api, schema, 0, []);
  return el(text.includes("\n") ? "pre" : "code", { class: "shape" }, text);
}

/** A value to start from, for a body. */
export function example(api, schema, depth = 0) {
  const one = resolved(api, schema);
  if (one.default !== undefined && one.default !== null) return one.default;
  if (one.const !== undefined) return one.const;
  if (one.enum) return one.enum[0];
  const choice = (one.anyOf ?? one.oneOf)?.find((each) => each.type !== "null");
  if (choice) return example(api, choice, depth);
  if (depth > DEEPEST) return null;
  if (one.type === "array") return [example(api, one.items ?? {}, depth + 1)];
  if (one.type === "integer" || one.type === "number") return one.minimum ?? 0;
  if (one.type === "boolean") return false;
  if (one.type !== "object" && !one.properties) return one.type === "string" ? "" : null;
  const needed = new Set(one.required ?? []);
  const fields = Object.entries(one.properties ?? {}).filter(([name]) => needed.has(name));
  return Object.fromEntries(fields.map(([name, field]) => [name, example(api, field, depth + 1)]));
}

function written(api, schema, depth, seen) {
  const name = schema.$ref?.split("/").pop();
  if (name && seen.includes(name)) return name;
  const one = resolved(api, schema);
  const within = name ? [...seen, name] : seen;
  const choices = one.anyOf ?? one.oneOf;
  if (choices) {
    const parts = choices.map((each) => written(api, each, depth, within));
    return parts.join(one.oneOf ? `\n${pad(depth)}or ` : " | ");
  }
  if (one.const !== undefined) return JSON.stringify(one.const);
  if (one.enum) return one.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (one.contentSchema) return `JSON: ${written(api, one.contentSchema, depth, within)}`;
  if (one.type === "array")
    return `[ ${written(api, one.items ?? {}, depth, within)} ]${bounds(one)}`;
  if (one.properties && depth < DEEPEST) {
    const needed = new Set(one.required ?? []);
    const lines = Object.entries(one.properties).map(([key, field]) => {
      const mark = needed.has(key) ? "" : "?";
      return `${pad(depth + 1)}${key}${mark}: ${written(api, field, depth + 1, within)}`;
    });
    return `{\n${lines.join("\n")}\n${pad(depth)}}`;
  }
  return `${one.type ?? "any"}${one.format ? ` (${one.format})` : ""}${bounds(one)}`;
}

function bounds(one) {
  const said = [];
  const low = one.minimum ?? one.minLength ?? one.minItems;
  const high = one.maximum ?? one.maxLength ?? one.maxItems;
  if (low !== undefined && high !== undefined) said.push(`${low} to ${high}`);
  else if (low !== undefined) said.push(`at least ${low}`);
  else if (high !== undefined) said.push(`at most ${high}`);
  const unit = { string: " characters", array: " items" }[one.type] ?? "";
  if (said.length) said[0] += unit;
  if (one.default !== undefined && one.default !== null)
    said.push(`default ${JSON.stringify(one.default)}`);
  return said.length ? ` — ${said.join(", ")}` : "";
}

function resolved(api, schema) {
  if (!schema.$ref) return schema;
  const found = schema.$ref
    .replace(/^#\//, "")
    .split("/")
    .reduce((at, key) => at?.[key], api);
  return found ?? {};
}

const pad = (depth) => "  ".repeat(depth);
