/** The connection lights: one per feed, and one for all together. */

const WORDS = {
  idle: "Idle",
  connecting: "Connecting",
  live: "Live",
  stale: "No word",
  reconnecting: "Reconnecting",
  polling: "Live by polling",
  refused: "No access",
};
const MEANINGS = {
  idle: "Nothing is followed.",
  connecting: "Opening the stream.",
  live: "New entries come over an open stream.",
  stale: "Three heartbeats are missing. A new connection is on its way.",
  reconnecting: "The connection was lost. What is missed will be caught up.",
  polling:
    "The feed is asked for news: all connections of the browser are in use, or no stream comes through.",
  refused: "You have no right to see this feed.",
};

export class Light {
  #root;
  #word;

  constructor(root) {
    this.#root = root;
    this.#word = root.querySelector("[data-word]");
    this.show("idle");
  }

  get state() {
    return this.#root.dataset.state;
  }

  show(state, words = WORDS[state]) {
    this.#root.dataset.state = state;
    this.#root.title = MEANINGS[state];
    if (this.#word.textContent !== words) this.#word.textContent = words;
  }
}

/** What the overall light says about the feeds' states: a state and words. */
export function summary(states) {
  const followed = states.filter((state) => state !== "idle");
  const live = followed.filter((state) => ["live", "polling"].includes(state)).length;
  const count = `${live} of ${followed.length} live`;
  if (followed.length === 0) return ["idle", "Idle"];
  if (live === followed.length) {
    if (!followed.includes("live")) return ["polling", WORDS.polling];
    return ["live", followed.length > 1 ? `All ${live} live` : "Live"];
  }
  for (const state of ["stale", "reconnecting", "connecting"]) {
    if (followed.includes(state)) return [state, live ? count : WORDS[state]];
  }
  return ["refused", count];
}
