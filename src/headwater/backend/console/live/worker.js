/** The hub that all tabs share; it ends with the last of them. */

import { Hub } from "./hub.js";

const hub = new Hub();
globalThis.addEventListener("connect", ({ ports: [port] }) => hub.attach(port));
