/** The drawer: one feed's frames as they come, its figures, and commands to copy. */

import { request } from "../api.js";
import { ago, clock, copy, el, number } from "../dom.js";
import { text } from "./wire.js";

const LOOKS = 250; // milliseconds between two looks at the wire

export class Drawer {
  #root;
  #part = null;
  #timer = null;
  #shown = -1;
  #opener = null;

  constructor(root) {
    this.#root = root;
    this.#find("close").addEventListener("click", () => this.close());
    this.#find("drop").addEventListener("click", () => this.#part?.drop());
    this.#find("kill").addEventListener("click", () => {
      // The answer may be cut off by what it announces.
      request("/api/demo/restart", { method: "POST" }).catch(() => {});
    });
    root.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    for (const button of root.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => {
        copy(this.#find(button.dataset.copy).textContent, button);
      });
    }
  }

  /** Offer to kill the server, which the demo allows. */
  offerKill(may) {
    this.#find("kill").hidden = !may;
  }

  /** Show a part's wire; the same part again closes it. */
  toggle(part, opener) {
    if (this.#part === part) return this.close();
    this.close();
    this.#part = part;
    this.#opener = opener;
    opener.setAttribute("aria-expanded", "true");
    this.#root.hidden = false;
    document.body.dataset.wire = part.root.id;
    this.#find("title").textContent = `Wire: ${part.title}`;
    this.#shown = -1;
    this.#show();
    this.#timer = setInterval(() => this.#show(), LOOKS);
    this.#find("close").focus();
  }

  close() {
    if (!this.#part) return;
    clearInterval(this.#timer);
    this.#opener.setAttribute("aria-expanded", "false");
    this.#root.hidden = true;
    delete document.body.dataset.wire;
    this.#part = null;
    if (document.activeElement === document.body || this.#root.contains(document.activeElement)) {
      this.#opener.focus();
    }
  }

  #find(name) {
    return this.#root.querySelector(`[data-${name}]`);
  }

  #show() {
    const { wire, address, state, position } = this.#part;
    this.#find("figures").replaceChildren(
      ...[
        ["State", state],
        ["Open since", wire.since ? clock(wire.since) : "–"],
        ["Events", number(wire.count)],
        ["Bytes", number(wire.bytes)],
        ["Delay since commit", wire.delay === null ? "–" : `${number(wire.delay)} ms`],
        ["Last heartbeat", wire.heartbeat ? ago(wire.heartbeat) : "–"],
      ].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
    this.#find("position").textContent = position ?? "none yet";
    this.#find("drop").disabled = state === "refused" || state === "idle";
    const url = new URL(address ?? "/", location.href).href;
    const stream = url.replace(/(\?|$)/, "/stream$1");
    set(this.#find("curl"), `curl -N -H "Authorization: Bearer $HEADWATER_TOKEN" '${stream}'`);
    set(this.#find("tail"), `headwater tail '${url}'`);
    this.#frames(wire);
  }

  #frames(wire) {
    if (this.#shown === wire.count) return;
    this.#shown = wire.count;
    const list = this.#find("frames");
    const stays = list.scrollTop > 8;
    if (stays) return; // one who reads older frames is left there
    list.replaceChildren(
      ...[...wire.frames].reverse().map((frame) =>
        el(
          "li",
          { "data-event": frame.name },
          el("span", { class: "faint" }, clock(frame.at)),
          el("pre", {}, text(frame).trimEnd()),
        ),
      ),
    );
  }
}

function set(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
