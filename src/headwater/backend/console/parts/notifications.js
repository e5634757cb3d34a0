/** Notifications, newest first, of all teams or of one. What is new since last time stands out. */

import { address, request } from "../api.js";
import { agoTime, command, el, memory } from "../dom.js";
import { Part } from "./part.js";

const GLYPHS = { info: "i", success: "✓", warning: "!", error: "×" };
const PAGE = 100;
const KEPT = 1_000;

export class Notifications extends Part {
  #count = this.find("[data-count]");
  #read = this.find("[data-read]");
  #filter = this.find("[data-filter]");
  #more = this.find("[data-more]");
  #items = []; // oldest first
  #start = null;
  #teams = new Map();
  #seen = 0; // the newest moment that was read, in ms
  #user = null;
  #onUnread;

  /** `onUnread(count, item | null)`: how many are unread now, and the one that came just now. */
  constructor(root, page, onUnread) {
    super(root, page);
    this.#onUnread = onUnread;
    this.#read.addEventListener("click", () => {
      this.#setSeen(moment(this.#items.at(-1)));
      this.#show();
    });
    this.#filter.addEventListener("change", () => this.#show());
    this.#more.addEventListener("click", () => this.#loadOlder());
  }

  get size() {
    return this.content.childElementCount;
  }

  get emptyText() {
    if (this.#items.length) return "None of these is among the newest.";
    const body = `{"user_id": "${this.#user?.id}", "title": "Hello"}`;
    const words = `headwater publish ${location.origin}/api/notifications --single --data '${body}'`;
    const text = "Nothing yet. What concerns you or your teams shows up here.";
    const may = this.#user?.permissions.includes("notifications.create");
    return may ? [`${text} Write one, with your API key in HEADWATER_TOKEN:`, command(words)] : text;
  }

  /** `teams`: the user's, for their names. */
  start(user, teams) {
    this.#user = user;
    this.#teams = new Map(teams.map((team) => [team.id, team.name]));
    this.#seen = Number(memory.get(`seen.${user.id}`));
    this.#filter.replaceChildren(
      el("option", { value: "" }, "All"),
      el("option", { value: "personal" }, "Personal"),
      ...teams.map((team) => el("option", { value: team.id }, team.name)),
    );
    const params = { limit: PAGE };
    this.follow({ path: "/api/notifications", event: "notification", collection: "notifications", params });
  }

  snapshot(items, page = {}) {
    this.#items = [...items];
    this.#start = page.start ?? null;
    this.#more.hidden = items.length === 0 || page.has_more === false;
    // On a first visit everything would be new, which says nothing.
    if (items.length && !this.#seen) this.#setSeen(moment(items.at(-1)));
    this.#show();
  }

  item(item) {
    this.#items.push(item);
    if (this.#items.length > KEPT) {
      this.#items.shift();
      this.#start = null;
    }
    if (this.#shows(item)) {
      const row = this.#row(item);
      row.classList.add("fresh");
      this.content.prepend(row);
      if (this.size > KEPT) this.content.lastElementChild.remove();
    }
    this.#tell(item);
  }

  #shows(item) {
    const { value } = this.#filter;
    return !value || (value === "personal" ? !item.team_id : item.team_id === value);
  }

  #show() {
    const shown = this.#items.filter((item) => this.#shows(item));
    this.content.replaceChildren(...shown.map((item) => this.#row(item)).reverse());
    this.#tell();
    if (this.state !== "idle") this.explain();
  }

  async #loadOlder() {
    this.#more.disabled = true;
    try {
      const before = this.#start ?? this.position;
      const page = await request(address("/api/notifications", { before, limit: PAGE }));
      const known = new Set(this.#items.map(({ id }) => id));
      this.#items.unshift(...page.notifications.filter(({ id }) => !known.has(id)));
      this.#start = page.start;
      this.#more.hidden = !page.has_more || this.#items.length >= KEPT;
      this.#show();
    } catch (problem) {
      this.#more.title = problem.message;
    } finally {
      this.#more.disabled = false;
    }
  }

  #row(item) {
    const unread = moment(item) > this.#seen;
    const tag = item.team_id ? (this.#teams.get(item.team_id) ?? "Team") : "Personal";
    return el(
      "li",
      { class: unread ? "unread" : "", "data-level": item.level, "data-id": item.id },
      el("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[item.level] ?? "i"),
      el(
        "div",
        {},
        el("p", { class: "title" }, el("span", { class: "sr-only" }, `${item.level}: `), item.title),
        item.body ? el("p", { class: "body" }, item.body) : null,
        el("p", { class: "meta" }, agoTime(item.created_at), ` · ${tag}`),
      ),
    );
  }

  #setSeen(seen) {
    this.#seen = seen;
    memory.set(`seen.${this.#user?.id}`, seen);
  }

  #tell(item = null) {
    const unread = this.#items.filter((one) => moment(one) > this.#seen).length;
    this.#count.textContent = unread || "";
    this.#count.title = `${unread} unread`;
    this.#read.disabled = unread === 0;
    this.#onUnread(unread, item);
  }
}

const moment = (item) => (item ? Date.parse(item.created_at) : 0);
