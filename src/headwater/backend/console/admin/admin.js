/** The administration: who and what there is, as far as the reader's permissions go. */

import { request } from "../api.js";
import { agoTime, command, el } from "../dom.js";
import { Section, button } from "./section.js";

const ROLES = [
  ["global_user", "User"],
  ["global_admin", "Administrator"],
];
const TEAM_ROLES = [
  ["team_user", "Member"],
  ["team_admin", "Team administrator"],
];
const LEVELS = ["info", "success", "warning", "error"].map((level) => [level, level]);

export class Admin {
  #root;
  #sections = [];

  constructor(root) {
    this.#root = root;
  }

  /** Build what `user` may see, and load it. */
  async show(user, teams) {
    const may = (permission) => user.permissions.includes(permission);
    const users = may("users.list") ? usersSection(user) : null;
    const all = may("teams.list") ? teamsSection() : null;
    const known = () => (all ? all.rows : teams);
    const inTeams = teams.some(({ role }) => role === "team_admin");
    this.#sections = [
      users,
      all,
      all && users ? membersSection(users, all) : null,
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
  }

  clear() {
    this.#sections = [];
    this.#root.replaceChildren();
  }
}

function usersSection(me) {
  const section = new Section({
    title: "Users",
    path: "/api/users",
    collection: "users",
    empty: "Nobody yet.",
    columns: [
      ["E-mail", ({ email }) => email],
      ["Role", (user) => roleChoice(user)],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["", (user) => (user.id === me.id ? "you" : disabling(user))],
    ],
    form: {
      label: "Add",
      fields: [
        ["email", "E-mail", { type: "email" }],
        ["password", "Password", { type: "password", autocomplete: "new-password" }],
        ["role", "Role", ROLES],
      ],
      send: async (body) => {
        await request("/api/users", { method: "POST", body });
        return `${body.email} can sign in.`;
      },
    },
  });
  const change = (user, body) =>
    section.act(() => request(`/api/users/${user.id}`, { method: "PATCH", body }).then(() => ""));
  const roleChoice = (user) => {
    const options = ROLES.map(([value, words]) => el("option", { value }, words));
    const select = el("select", { "aria-label": `Role of ${user.email}` }, ...options);
    select.value = user.role;
    select.disabled = user.id === me.id;
    select.addEventListener("change", () => change(user, { role: select.value }));
    return select;
  };
  const disabling = (user) =>
    button(user.disabled ? "Enable" : "Disable", () => change(user, { disabled: !user.disabled }), {
      "aria-label": `${user.disabled ? "Enable" : "Disable"} ${user.email}`,
    });
  return section;
}

function teamsSection() {
  return new Section({
    title: "Teams",
    path: "/api/teams",
    collection: "teams",
    empty: "No team yet.",
    columns: [
      ["Name", ({ name }) => name],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["Id", ({ id }) => el("code", {}, id)],
    ],
    form: {
      label: "Add",
      fields: [["name", "Name", {}]],
      send: (body) => request("/api/teams", { method: "POST", body }).then(() => ""),
    },
  });
}

function membersSection(users, teams) {
  return new Section({
    title: "Members",
    form: {
      label: "Set",
      fields: [
        ["team", "Team", () => teams.rows.map(({ id, name }) => [id, name])],
        ["user", "User", () => users.rows.map(({ id, email }) => [id, email])],
        ["role", "Role", [...TEAM_ROLES, ["remove", "not in it"]]],
      ],
      send: async ({ team, user, role }) => {
        const path = `/api/teams/${team}/members/${user}`;
        if (role === "remove") await request(path, { method: "DELETE" });
        else await request(path, { method: "PUT", body: { role } });
        const { email } = users.rows.find(({ id }) => id === user);
        const { name } = teams.rows.find(({ id }) => id === team);
        const words = TEAM_ROLES.find(([value]) => value === role)?.[1].toLowerCase();
        return words ? `${email} is ${words} of ${name}.` : `${email} is not in ${name}.`;
      },
    },
  });
}

function satellitesSection(may, teams) {
  return new Section({
    title: "Satellites",
    path: "/api/satellites",
    collection: "satellites",
    empty: "No satellite is registered yet.",
    columns: [
      ["Name", ({ name }) => name],
      ["Team", ({ team_id: id }) => teams().find((team) => team.id === id)?.name ?? (id ? id : "all")],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["Id", ({ id }) => el("code", {}, id)],
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
