/** Which MCP clients are active: one row each, updated in place, gone when the client is. */

import { agoTime, command, el, memory, number } from "../dom.js";
import { Choice } from "./choice.js";
import { Rows } from "./rows.js";

const WINDOWS = [
  [5, "5 minutes"],
  [15, "15 minutes"],
  [30, "30 minutes"],
  [60, "1 hour"],
  [240, "4 hours"],
  [1440, "24 hours"],
];

export class Activity extends Rows {
  row = row;
  #window = this.find("[data-window]");
  #team = null;
  #choice = new Choice(this.find("[data-choice]"), {
    name: "activity-team",
    path: "/api/users/me/teams",
    collection: "teams",
    none: "You are in no team yet. Client activity is shown per team.",
    say: (...words) => this.say(...words),
    onChoose: (team) => this.#show(team),
  });

  constructor(...given) {
    super(...given);
    this.#window.append(
      ...WINDOWS.map(([minutes, words]) => el("option", { value: minutes }, `last ${words}`)),
    );
    this.#window.value = memory.get("activity-window") ?? "30";
    this.#window.addEventListener("change", () => {
      memory.set("activity-window", this.#window.value);
      this.#show(this.#team);
    });
  }

  get emptyText() {
    const body = '{"user_id": "…", "team_id": "…", "client_name": "Cursor", "requests": 1, "tool_calls": 0}';
    const words = `headwater publish ${location.origin}/api/satellites/…/client-activity --data '${body}'`;
    return [
      "No client of yours was active in this time. A satellite reports clients, with its key in HEADWATER_TOKEN:",
      command(words),
    ];
  }

  start() {
    return this.#choice.load();
  }

  #show(team) {
    this.#team = team;
    if (!team) return this.stop();
    const params = { team_id: team.id, active_within_minutes: this.#window.value, limit: 100 };
    const path = "/api/users/me/mcp/client-activity";
    this.follow({ path, event: "client_activity", collection: "activities", params });
  }
}

/** A row; what changed since the `last` one lights up. */
function row(item, last = null) {
  const changed = (name) => last && last.item[name] !== item[name];
  const figure = (name) =>
    el("td", { class: changed(name) ? "figure changed" : "figure" }, number(item[name]));
  const element = el(
    "tr",
    { "data-id": item.id },
    el(
      "th",
      { scope: "row", title: item.client_name },
      item.client_name,
      el("span", { class: "under faint" }, item.satellite_name),
    ),
    el("td", { class: "satellite", title: item.satellite_name }, item.satellite_name),
    el("td", { class: "agent faint", title: item.user_agent ?? "" }, item.user_agent ?? ""),
    figure("requests"),
    figure("tool_calls"),
    el("td", { class: "figure faint" }, agoTime(item.last_activity_at)),
  );
  if (!last) element.classList.add("fresh");
  return { item, element, name: `${item.client_name} ${item.satellite_name} ${item.id}` };
}
