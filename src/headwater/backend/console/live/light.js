/** The connection lights: one per feed, and one for all together. */

const WORDS = {
  idle: "Idle",
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  polling: "Polling",
  refused: "No access",
};
const MEANINGS = {
  idle: "Nothing is followed.",
  connecting: "Opening the stream.",
  live: "New entries come over an open stream.",
  reconnecting: "The connection was lost. What is missed will be caught up.",
  polling: "No stream is open just now; the feed is asked for news instead.",
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

/** What the overall light and the banner say about the feeds' states. */
export function summary(states) {
  const followed = states.filter((state) => state !== "idle");
  const has = (state) => followed.includes(state);
  const live = followed.filter((state) => state === "live").length;
  const count = `${live} of ${followed.length} live`;
  if (followed.length === 0) return ["idle", "Idle"];
  if (live === followed.length) return ["live", followed.length > 1 ? `All ${live} live` : "Live"];
  if (has("reconnecting")) return ["reconnecting", live ? count : "Reconnecting"];
  if (has("connecting")) return ["connecting", "Connecting"];
  if (has("polling")) return ["polling", live ? count : "Polling"];
  return ["refused", count];
}
