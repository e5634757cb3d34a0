/** Notifications, newest first: one's own, or one team's. What is new since last time stands out. */

import { agoTime, el, memory } from "../dom.js";
import { Choice } from "./choice.js";
import { Part } from "./part.js";

const GLYPHS = { info: "i", success: "✓", warning: "!", error: "×" };
const ROWS = 100;

class Notices extends Part {
  #count = this.find("[data-count]");
  #read = this.find("[data-read]");
  #onUnread;
  #seen = 0; // the newest moment that was read, in ms
  #memory;

  /** `onUnread(count, item | null)`: how many are unread now, and the one that came just now. */
  constructor(root, link, onState, onUnread = () => {}) {
    super(root, link, onState);
    this.#onUnread = onUnread;
    this.#read.addEventListener("click", () => {
      this.#setSeen(this.#newest());
      for (const row of this.content.children) row.classList.remove("unread");
      this.#tell();
    });
  }

  get size() {
    return this.content.childElementCount;
  }

  /** Follow `path`. What was read is remembered for `reader` (a user, and the team). */
  open(path, reader) {
    this.#memory = `seen.${reader}`;
    this.#seen = Number(memory.get(this.#memory));
    const event = "notification";
    this.follow({ path, event, collection: "notifications", params: { limit: 50 } });
  }

  snapshot(items) {
    this.content.replaceChildren(...items.map((item) => this.#row(item)).reverse());
    // On a first visit everything would be new, which says nothing.
    if (items.length && !this.#seen) {
      this.#setSeen(this.#newest());
      for (const row of this.content.children) row.classList.remove("unread");
    }
    this.#tell();
  }

  item(item) {
    const row = this.#row(item);
    row.classList.add("fresh");
    this.content.prepend(row);
    if (this.size > ROWS) this.content.lastElementChild.remove();
    this.#tell(item);
  }

  /** The name of what a notification is for, or null where all are for the same. */
  tag() {
    return null;
  }

  #row(item) {
    const unread = moment(item) > this.#seen;
    const tag = this.tag(item);
    return el(
      "li",
      { class: unread ? "unread" : "", "data-level": item.level, "data-id": item.id },
      el("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[item.level] ?? "i"),
      el(
        "div",
        {},
        el("p", { class: "title" }, el("span", { class: "sr-only" }, `${item.level}: `), item.title),
        item.body ? el("p", { class: "body" }, item.body) : null,
        el("p", { class: "meta" }, agoTime(item.created_at), tag ? ` · ${tag}` : null),
      ),
    );
  }

  #newest() {
    const newest = this.find("li time");
    return newest ? Date.parse(newest.dateTime) : 0;
  }

  #setSeen(seen) {
    this.#seen = seen;
    memory.set(this.#memory, seen);
  }

  #tell(item = null) {
    const unread = this.content.querySelectorAll(".unread").length;
    this.#count.textContent = unread || "";
    this.#count.title = `${unread} unread`;
    this.#read.disabled = unread === 0;
    this.#onUnread(unread, item);
  }
}

const moment = (item) => Date.parse(item.created_at);

export class PersonalNotices extends Notices {
  #teams = new Map();

  get emptyText() {
    return "Nothing yet. What concerns you or your teams shows up here.";
  }

  /** `teams`: the user's, for their names. */
  start(user, teams) {
    this.#teams = new Map(teams.map((team) => [team.id, team.name]));
    this.open("/api/notifications", user.id);
  }

  tag(item) {
    return item.team_id ? (this.#teams.get(item.team_id) ?? "Team") : "Personal";
  }
}

export class TeamNotices extends Notices {
  #user;
  #choice = new Choice(this.find("[data-choice]"), {
    name: "team",
    path: "/api/users/me/teams",
    collection: "teams",
    none: "You are in no team yet. An administrator can add you to one.",
    say: (...words) => this.say(...words),
    onChoose: (team) => this.#show(team),
  });

  get emptyText() {
    return "Nothing yet. What concerns this team shows up here.";
  }

  /** Resolves to the user's teams. */
  async start(user) {
    this.#user = user;
    await this.#choice.load();
    return this.#choice.items;
  }

  #show(team) {
    if (!team) return this.stop();
    const path = `/api/teams/${encodeURIComponent(team.id)}/notifications`;
    this.open(path, `${this.#user.id}.${team.id}`);
  }
}
