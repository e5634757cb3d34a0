/** The administration: who and what there is, as far as the reader's permissions go. */

import { request } from "../api.js";
import { agoTime, command, el } from "../dom.js";
import { membersSection, sessionsSection, teamsSection, usersSection } from "./people.js";
import { Section, button, sureButton } from "./section.js";
import { streamsSection, tailsSection } from "./followers.js";

// Milliseconds between two looks at what changes by itself.
const EVERY = 2_000;
const LEVELS = ["info", "success", "warning", "error"].map((level) => [level, level]);

export class Admin {
  #root;
  #sections = [];
  #timer;

  constructor(root) {
    this.#root = root;
  }

  /** Build what `user` may see, and load it. */
  async show(user, teams) {
    const may = (permission) => user.permissions.includes(permission);
    const users = may("users.list") ? usersSection(user) : null;
    const all = may("teams.list") ? teamsSection(may("teams.delete")) : null;
    const known = () => (all ? all.rows : teams);
    const led = teams.filter(({ role }) => role === "team_admin");
    const inTeams = led.length > 0;
    const changed = () => (may("team.members.edit") ? known() : led);
    this.#sections = [
      may("streams.list") ? streamsSection(may("streams.close")) : null,
      may("streams.list") ? tailsSection() : null,
      users,
      all,
      may("team.members.edit") || inTeams ? membersSection(users, changed) : null,
      sessionsSection(user, may("users.edit") ? users : null),
      satellitesSection(may("satellites.manage") || inTeams, known),
      keysSection(),
      may("notifications.create") || inTeams ? notifySection(user, known) : null,
      feedsSection(),
    ].filter(Boolean);
    this.#root.replaceChildren(...this.#sections.map(({ element }) => element));
    await Promise.all(this.#sections.map((section) => section.load()));
    const refresh = () => this.#sections.forEach((section) => section.refresh());
    for (const section of this.#sections) section.onChange = refresh;
    refresh();
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#sections.forEach((section) => section.tick()), EVERY);
  }

  clear() {
    clearInterval(this.#timer);
    this.#sections = [];
    this.#root.replaceChildren();
  }
}

function satellitesSection(may, teams) {
  const section = new Section({
    title: "Satellites",
    path: "/api/satellites",
    collection: "satellites",
    empty: "No satellite is registered yet.",
    columns: [
      ["Name", ({ name }) => name],
      ["Team", ({ team_id: id }) => teams().find((team) => team.id === id)?.name ?? (id ? id : "all"), "name"],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["Id", ({ id }) => el("code", {}, id)],
      ["", (satellite) => may && [renewing(satellite), " ", removing(satellite)]],
    ],
    form: may && {
      label: "Register",
      fields: [
        ["name", "Name", {}],
        ["team_id", "Team", () => [["none", "all"], ...teams().map(({ id, name }) => [id, name])]],
      ],
      send: async ({ name, team_id: id }) => {
        const body = { name, team_id: id === "none" ? null : id };
        const made = await request("/api/satellites", { method: "POST", body });
        return [`The key of ${name} is shown this once: `, command(made.api_key)];
      },
    },
  });
  const renewing = ({ id, name }) => {
    const renew = async () => {
      const made = await request(`/api/satellites/${id}/keys`, { method: "POST" });
      return [`${name} has a new key; the former one works for an hour: `, command(made.api_key)];
    };
    return button("New key", () => section.act(renew), { "aria-label": `New key for ${name}` });
  };
  const removing = ({ id, name }) => {
    const remove = () => request(`/api/satellites/${id}`, { method: "DELETE" }).then(() => `${name} is gone.`);
    return sureButton(section, "Remove", remove, `Remove the satellite ${name}`);
  };
  return section;
}

function keysSection() {
  const section = new Section({
    title: "My API keys",
    path: "/api/users/me/api-keys",
    collection: "api_keys",
    empty: "You have no key. The commands headwater tail and publish need one.",
    columns: [
      ["Name", ({ name }) => name],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["", (key) => ending(key)],
    ],
    form: {
      label: "Make",
      fields: [["name", "Name", {}]],
      send: async (body) => {
        const made = await request("/api/users/me/api-keys", { method: "POST", body });
        return ["The key is shown this once: ", command(`export HEADWATER_TOKEN=${made.api_key}`)];
      },
    },
  });
  const ending = ({ id, name }) =>
    button(
      "End",
      () =>
        section.act(() =>
          request(`/api/users/me/api-keys/${id}`, { method: "DELETE" }).then(() => `${name} is ended.`),
        ),
      { "aria-label": `End the key ${name}` },
    );
  return section;
}

function notifySection(me, teams) {
  return new Section({
    title: "Publish a notification",
    form: {
      label: "Publish",
      fields: [
        ["to", "To", () => [["me", "myself"], ...teams().map(({ id, name }) => [id, name])]],
        ["level", "Level", LEVELS],
        ["title", "Title", { maxLength: 200 }],
      ],
      send: async ({ to, level, title }) => {
        const whom = to === "me" ? { user_id: me.id } : { team_id: to };
        await request("/api/notifications", { method: "POST", body: { ...whom, level, title } });
        return "Published.";
      },
    },
  });
}

/** What can be followed here, from the API's own description. */
function feedsSection() {
  const section = new Section({
    title: "Feeds",
    empty: "No feed.",
    columns: [
      ["Feed", ({ summary }) => summary],
      ["Address", ({ path }) => el("code", {}, path)],
      ["Parameters", ({ parameters }) => parameters.join(", ")],
    ],
  });
  section.load = async () => {
    try {
      const { paths } = await request("/openapi.json");
      section.rows = Object.keys(paths)
        .filter((path) => paths[`${path}/stream`])
        .map((path) => {
          const { summary, parameters = [] } = paths[path].get;
          return { path, summary, parameters: parameters.map(({ name }) => name) };
        });
      section.show();
    } catch (problem) {
      section.say(problem.message, true);
    }
  };
  return section;
}
