/** The WHATWG event-stream format, for streams that are read by fetch. */

// Characters of one event: a server that never ends one must not fill the memory.
const LONGEST = 2 ** 26;

/** Splits a stream's text into its events, whatever pieces it comes in. */
export class Decoder {
  retry = null; // milliseconds, once the stream has said them
  lastEventId; // of the last event, or of an empty one that only moves it
  #line = "";
  #begun = false;
  #afterCr = false;
  #data = null;
  #name = "";
  #id;

  /** `lastEventId`: of the connection before. */
  constructor(lastEventId = "") {
    this.lastEventId = this.#id = lastEventId;
  }

  /** The events that `text`, the next piece of the stream, completes: {name, data, id}. */
  push(text) {
    const events = [];
    if (!text) return events;
    if (!this.#begun && text[0] === "\uFEFF") text = text.slice(1);
    // A CR that ended the last piece and this LF are one line end.
    else if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#begun = true;
    if (text) this.#afterCr = text.endsWith("\r");
    else this.#afterCr = false;
    const [first, ...lines] = text.split(/\r\n|\r|\n/);
    this.#line += first;
    for (const line of lines) {
      this.#take(this.#line, events);
      this.#line = line;
    }
    if (this.#line.length + (this.#data?.length ?? 0) > LONGEST) {
      throw new RangeError(`an event is longer than ${LONGEST} characters`);
    }
    return events;
  }

  #take(line, events) {
    if (line === "") return this.#dispatch(events);
    const [, field, value = ""] = /^([^:]*)(?:: ?([^]*))?$/.exec(line);
    if (field === "data") this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    else if (field === "event") this.#name = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch(events) {
    this.lastEventId = this.#id;
    if (this.#data !== null) {
      events.push({ name: this.#name || "message", data: this.#data, id: this.#id });
    }
    this.#data = null;
    this.#name = "";
  }
}
