/** What comes over one feed's line: its frames, and the figures that one can draw from them. */

// Frames that are kept for the drawer.
const FRAMES = 200;
// Milliseconds after a connection is back in which what was missed arrives.
const SETTLES = 1_500;
const MOMENTS = ["created_at", "at", "last_activity_at"];

export class Wire {
  frames = []; // {name, data, id, at}, the newest last
  count = 0;
  bytes = 0;
  heartbeat = null; // when the last one came, in ms
  delay = null; // milliseconds from the commit of the last item to here
  since = null; // when this connection opened
  #down = null; // {at, caught}: since the connection was lost
  #ids = new Set(); // of the newest items

  note(frame) {
    const at = Date.now();
    this.frames.push({ ...frame, at });
    if (this.frames.length > FRAMES) this.frames.shift();
    this.count += 1;
    this.bytes += text(frame).length;
    if (frame.name === "heartbeat") this.heartbeat = at;
  }

  item(item) {
    const moment = MOMENTS.map((name) => item[name]).find(Boolean);
    this.delay = moment ? Math.max(0, Date.now() - Date.parse(moment)) : null;
    this.#ids.add(item.id);
    if (this.#ids.size > 5_000) this.#ids.delete(this.#ids.values().next().value);
    if (this.#down) this.#down.caught += 1;
  }

  snapshot(items) {
    for (const { id } of items) this.#ids.add(id);
  }

  state(state) {
    if (state === "live") this.since = Date.now();
    else if (["stale", "reconnecting"].includes(state)) this.#down ??= { at: Date.now(), caught: 0 };
  }

  /**
   * After a connection is back: {at, caught, lost} once what was missed has arrived, else null.
   * `ask` gives the feed's newest page, which is what the server says was to be had.
   */
  async resumed(ask) {
    const down = this.#down;
    if (!down) return null;
    const at = Date.now();
    await new Promise((resolve) => setTimeout(resolve, SETTLES));
    if (this.#down !== down) return null;
    this.#down = null;
    const { caught } = down;
    const items = await ask();
    await new Promise((resolve) => setTimeout(resolve, SETTLES / 3));
    const since = (item) => Date.parse(MOMENTS.map((name) => item[name]).find(Boolean));
    const lost = items.filter((item) => since(item) >= down.at && !this.#ids.has(item.id)).length;
    return { at, caught, lost };
  }
}

/** A frame as it stands on the wire. */
export function text({ name, data, id }) {
  const lines = data.split("\n").map((line) => `data: ${line}`);
  return [`event: ${name}`, ...(id ? [`id: ${id}`] : []), ...lines, "", ""].join("\n");
}
