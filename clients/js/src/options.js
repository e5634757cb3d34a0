/** The options, looked at once: a misspelt one would be ignored, and a wrong one fail much later. */

// The types that each may have; "any" is left to `fetch`.
const OPTIONS = {
  onSnapshot: "function",
  onItem: "function",
  onRemoved: "function",
  onReset: "function",
  onEvent: "function",
  onState: "function",
  onFrame: "function",
  onSignIn: "function",
  event: "string",
  envelope: "string",
  events: "array",
  after: "string",
  resume: "string or object",
  rest: "boolean",
  heartbeat: "boolean",
  tabs: "boolean, string or number",
  key: "string, array or function",
  headers: "object, array or function",
  method: "string",
  body: "any",
  credentials: "string",
  fetch: "function",
  EventSource: "function",
};
const HELD = { ...OPTIONS, onChange: "function" };

/** What each function has. */
const OF = {
  follow: OPTIONS,
  keyed: HELD,
  list: { ...HELD, keep: "number" },
  followRun: Object.fromEntries(
    ["onChange", "onEvent", "onState", "onSignIn", "after", "headers", "credentials", "fetch"].map(
      (name) => [name, HELD[name]],
    ),
  ),
};

/** The options of a call of `name` that are set. TypeError for one that it does not have, or of another type. */
export function checked(name, options) {
  const known = OF[name];
  options ??= {};
  if (typeof options !== "object") throw new TypeError(`${name}: the options are no object`);
  for (const [option, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, option)) {
      throw new TypeError(
        `${name} has no option ${option}: it has ${Object.keys(known).join(", ")}. ` +
          'What a feed is asked for is part of its address, as in "/api/logs?level=error"',
      );
    }
    const types = known[option];
    const type = Array.isArray(value) ? "array" : typeof value;
    if (value != null && types !== "any" && !types.includes(type)) {
      throw new TypeError(`${name}: the option ${option} is of type ${type}, and must be of type ${types}`);
    }
  }
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value != null));
}

/** The headers of a request. What the function throws is reported: the line alone would look broken. */
export async function headersOf({ headers }) {
  try {
    return new Headers(await (typeof headers === "function" ? headers() : headers));
  } catch (error) {
    report(error);
    throw error;
  }
}

/** An error of the caller's own function. */
export const report = (error) => (globalThis.reportError ?? console.error)(error);
