/** One run: its output so far, and how it ended. */

import { addressed, Follow } from "./follow.js";
import { checked, headersOf } from "./options.js";

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
  const run = { text: "", state: "queued", ended, close: () => feed.close() };

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
    try {
      const headers = await headersOf(options);
      headers.set("Accept", "application/json");
      const { credentials = "same-origin" } = options;
      const answer = await ask(address.href, { headers, credentials, cache: "no-store" });
      if (answer.ok) Object.assign(run, await answer.json());
    } catch {
      // The state is known.
    }
    changed();
    resolve(run);
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
