/** Follows Headwater feeds, and other event streams, from a browser. */

/**
 * - `connecting`: the first connection is being made.
 * - `live`: items come over an open stream.
 * - `stale`: three heartbeats are missing; a new connection is on its way.
 * - `reconnecting`: the connection was lost; what is missed will be caught up.
 * - `polling`: nothing streams through, so the feed is long-polled; streaming is tried again.
 * - `refused`: the server refused, with `status`; nothing goes on before `reconnect()`.
 * - `closed`: `close()` was called, or the server says that there is nothing more (204).
 */
export type State =
  | "connecting"
  | "live"
  | "stale"
  | "reconnecting"
  | "polling"
  | "refused"
  | "closed";

/** A page of the REST half, under the feed's own collection name too. */
export interface Page {
  start?: string;
  position?: string;
  has_more?: boolean;
  [collection: string]: unknown;
}

/** One event as it came. Its `id` is empty where the event has none. */
export interface Frame {
  name: string;
  data: string;
  id: string;
}

export interface Position {
  id?: string;
}

/** Where a position is kept between visits: a name in sessionStorage, or an object. */
export type Resume =
  | string
  | {
      get(): string | null | undefined | Promise<string | null | undefined>;
      set(position: string | null): void;
    };

export interface Options<Item = any, Key = any> {
  /** The feed as it is now, the oldest item first: it replaces what was shown. */
  onSnapshot?(items: Item[], page: Page): void;
  /** A new item, or a new version of a keyed one. */
  onItem?(item: Item, position: Position): void;
  /** An item left a keyed feed. */
  onRemoved?(key: Key, position: Position): void;
  /** The position cannot be resumed; a snapshot follows. */
  onReset?(reason: "expired" | "unknown"): void;
  /** An event with another name than the feed's. */
  onEvent?(name: string, data: any, position: Position): void;
  /** The state changed; `status` is the HTTP status of a refusal. */
  onState?(state: State, detail: { status: number | null }): void;
  /** Each event before it is handled, heartbeats included. */
  onFrame?(frame: Frame): void;
  /**
   * The server answered 401 or 403. Resolve to `true` to go on at the position, to `"anew"` to
   * begin with a snapshot (somebody else signed in), to anything else to stay refused.
   */
  onSignIn?(status: number): unknown;

  /** The name of the feed's events. A Headwater server says it by itself. */
  event?: string;
  /** The member of each answer that has its content, such as `"data"`. A Headwater server says it by itself. */
  envelope?: string;
  /** Names of further events, which EventSource must know. */
  events?: string[];
  /** Where to begin: a position. Without one the feed begins with a snapshot. */
  after?: string;
  /** Keeps the position, and begins there the next time. */
  resume?: Resume;
  /** `false` for an event stream that is no feed. */
  rest?: false;
  /** `false` keeps `?heartbeat=event` out of the address; a dead line is then not noticed. */
  heartbeat?: false;
  /**
   * Whether tabs share one connection, which they do unless the options are this tab's own.
   * A string is a part of what is shared: the id of the user.
   */
  tabs?: boolean | string;
  /** The field, fields or function that tell items apart. The default is `"id"`. */
  key?: string | string[] | ((item: Item | Key) => unknown);
  /** Sends headers, by fetch in place of EventSource. A function is called at each connection. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Such as `"POST"`, by fetch in place of EventSource. */
  method?: string;
  body?: BodyInit;
  /** `"include"` sends cookies to another origin. */
  credentials?: RequestCredentials;
  /** What to call in place of `fetch`. */
  fetch?: typeof fetch;
  /** What to use in place of `EventSource`. Where there is none, `fetch` is used. */
  EventSource?: typeof EventSource;
}

export type Change<Item = any, Key = any> =
  | { type: "snapshot"; items: Item[]; page: Page; id?: string }
  | { type: "item"; item: Item; id?: string }
  | { type: "removed"; key: Key; id?: string }
  | { type: "reset"; reason: "expired" | "unknown" }
  | { type: "event"; name: string; data: any; id?: string };

/** A feed that is followed until it is closed. */
export interface Follow<Item = any, Key = any> extends AsyncIterable<Change<Item, Key>> {
  readonly state: State;
  /** The HTTP status of a refusal, else null. */
  readonly status: number | null;
  /** Where the feed was followed to; null before the first snapshot. */
  readonly position: string | null;
  /** Drops the connection and connects again after `wait` ms; `anew` begins with a snapshot. */
  reconnect(options?: { wait?: number; anew?: boolean }): void;
  close(): void;
}

export interface Keyed<Item = any, Key = any> extends Follow<Item, Key> {
  /** The items by key; the same Map each time, kept current. */
  readonly items: Map<unknown, Item>;
}

export interface List<Item = any> extends Follow<Item> {
  /** The newest items, the oldest of them first. */
  readonly items: Item[];
}

/**
 * Follows a feed, given the address of either half. `rest: false` follows any other event stream.
 *
 * Callbacks, or `for await`: an iterator gets each change once, and a slow one rests the connection.
 */
export function follow<Item = any, Key = any>(url: string | URL, options?: Options<Item, Key>): Follow<Item, Key>;

/** A run as `GET` of its address gives it. */
export interface RunState {
  id?: string;
  /** `queued`, `running`, then `done`, `failed`, `cancelled` or `lost`: its producer died. */
  state: "queued" | "running" | "done" | "failed" | "cancelled" | "lost";
  result?: any;
  error?: string | null;
  [other: string]: unknown;
}

export interface FollowedRun extends RunState {
  /** The output so far. */
  readonly text: string;
  /** The run itself, once it has ended; rejects with a `status` where the server refuses it. */
  readonly ended: Promise<FollowedRun>;
  close(): void;
}

export interface RunOptions
  extends Pick<Options, "after" | "headers" | "credentials" | "fetch" | "onState" | "onSignIn"> {
  /** The output or the state changed. */
  onChange?(run: FollowedRun): void;
  /** An event of the application, and `restart`: what was shown is void, and begins again. */
  onEvent?(name: string, data: any, run: FollowedRun): void;
}

/** Follows a run to its end, given its address: the `Location` that starting it gave. */
export function followRun(url: string | URL, options?: RunOptions): FollowedRun;

/** A keyed feed as a live Map. `onChange` is called after changes, at most each 16 ms. */
export function keyed<Item = any, Key = any>(
  url: string | URL,
  options?: Options<Item, Key> & { onChange?(items: Map<unknown, Item>, feed: Keyed<Item, Key>): void },
): Keyed<Item, Key>;

/** An append-only feed as the list of its newest items, at most `keep` (1,000) of them. */
export function list<Item = any>(
  url: string | URL,
  options?: Options<Item> & { keep?: number; onChange?(items: Item[], feed: List<Item>): void },
): List<Item>;

/** Splits the text of an event stream into its events. */
export class Decoder {
  constructor(lastEventId?: string);
  /** Milliseconds, once the stream has said them. */
  retry: number | null;
  lastEventId: string;
  push(text: string): Frame[];
}
