/** Follows Headwater feeds, and other event streams, from a browser. */

export { Decoder } from "./decoder.js";
export { follow, keyed, list } from "./follow.js";
export { followRun } from "./run.js";
