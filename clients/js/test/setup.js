/** What a browser has and Node lacks: EventSource, of npm's package, which follows the standard. */

import { EventSource } from "eventsource";

globalThis.EventSource ??= EventSource;
