/** The REST half: JSON in, JSON out, problems as errors. */

/** An answer that is not 2xx. `status` 0 means that no answer came at all. */
export class Problem extends Error {
  constructor(status, detail, retryAfter = null) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter; // seconds, where the server said so
  }
}

/** Ask for `path`; the parsed body, or null when there is none. Throws Problem. */
export async function request(path, { method = "GET", body, signal } = {}) {
  const init = { method, signal, cache: "no-store", headers: { Accept: "application/json" } };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  let response;
  let parsed;
  try {
    response = await fetch(path, init);
    const text = await response.text();
    parsed = text ? JSON.parse(text) : null;
  } catch (error) {
    if (signal?.aborted) throw error;
    // A proxy's HTML error page is still an answer; a body cut short is none.
    if (!response || response.ok) throw new Problem(0, "The server cannot be reached.");
    parsed = null;
  }
  if (response.ok) return parsed;
  const retryAfter = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  throw new Problem(
    response.status,
    parsed?.detail ?? `The server answered ${response.status}.`,
    Number.isNaN(retryAfter) ? null : retryAfter,
  );
}

/** A path with its parameters; those that are empty are left out, a list is given one by one. */
export function address(path, params = {}) {
  const given = Object.entries(params)
    .flatMap(([name, values]) => [values].flat().map((value) => [name, value]))
    .filter(([, value]) => value !== "" && value != null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** All rows of a REST list, page after page. */
export async function everything(path, collection) {
  const rows = [];
  let page;
  do {
    page = await request(address(path, { after: rows.at(-1)?.id }));
    rows.push(...page[collection]);
  } while (page.has_more);
  return rows;
}
