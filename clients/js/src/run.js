/** One run: its output so far, and how it ended. */

import { addressed, Follow } from "./follow.js";
import { checked, headersOf } from "./options.js";
import { backOff, pause } from "./waiting.js";

// How often the result is asked for, over half a minute: longer than a server needs to start again.
const TRIES = 8;
const ANSWERS_WITHIN = 10_000;

/** Follows a run, given its address; `after` and the other options are as for `follow`. */
export function followRun(url, given) {
  const { onChange, onEvent, onState, onSignIn, ...options } = checked("followRun", given);
  const address = addressed(url);
  const path = address.pathname.replace(/(\/stream)?$/, "");
  // By fetch: an EventSource hears only the names of events that it is told before.
  const ask = options.fetch ?? ((...asked) => fetch(...asked));
  let resolve, reject;
  const ended = new Promise((...both) => ([resolve, reject] = both));
  ended.catch(() => {}); // an application that does not wait for it is not troubled
  const closing = new AbortController();
  const { signal } = closing;
  signal.addEventListener("abort", () => feed.close());
  const run = { text: "", state: "queued", ended, close: () => closing.abort() };

  const refused = (status) =>
    reject(Object.assign(new Error(`The server refused the run with ${status}.`), { status }));

  const changed = (name, data) => {
    if (name) onEvent?.(name, data, run);
    onChange?.(run);
  };

  /** The end says the state alone: the run itself has its result and error. */
  async function over() {
    feed.close();
    address.pathname = path;
    for (let tries = 0; tries < TRIES && !signal.aborted && !(await answered()); tries += 1) {
      await pause(backOff(tries), signal);
    }
    if (signal.aborted) return;
    changed();
    resolve(run);
  }

  /** Asks for the run itself; false where another answer may come later. */
  async function answered() {
    try {
      const headers = await headersOf(options);
      headers.set("Accept", "application/json");
      const { credentials = "same-origin" } = options;
      const within = AbortSignal.timeout(ANSWERS_WITHIN);
      const answer = await ask(address.href, { headers, credentials, cache: "no-store", signal: within });
      if (answer.ok) Object.assign(run, await answer.json());
      return answer.status < 500 && answer.status !== 408 && answer.status !== 429;
    } catch {
      return false;
    }
  }

  address.pathname = `${path}/stream`;
  const feed = new Follow(address.href, {
    ...options,
    rest: false,
    tabs: false,
    fetch: ask,
    onReset() {
      run.text = "";
      changed();
    },
    onEvent(name, data) {
      if (name === "delta") run.text += data.text;
      if (name === "restart") run.text = "";
      if (name === "run") Object.assign(run, data);
      if (name !== "end") return changed(name === "delta" || name === "run" ? "" : name, data);
      run.state = data.state;
      changed();
      over();
    },
    onState(state, { status }) {
      onState?.(state, { status });
      if (status === 204) over();
      if (state === "refused" && !(onSignIn && [401, 403].includes(status))) refused(status);
    },
    async onSignIn(status) {
      let answer = false;
      try {
        return (answer = await onSignIn?.(status));
      } finally {
        if (!answer) refused(status);
      }
    },
  });
  return run;
}
