/** Users, teams, who belongs to a team, and where somebody is signed in. */

import { request } from "../api.js";
import { agoTime, dayTime, el } from "../dom.js";
import { Section, button, sureButton } from "./section.js";

const ROLES = [
  ["global_user", "User"],
  ["global_admin", "Administrator"],
];
const TEAM_ROLES = [
  ["team_user", "Member"],
  ["team_admin", "Team administrator"],
];
export function usersSection(me) {
  const section = new Section({
    title: "Users",
    path: "/api/users",
    collection: "users",
    empty: "Nobody yet.",
    columns: [
      ["E-mail", ({ email }) => email],
      ["Role", (user) => roleChoice(user)],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["", (user) => (user.id === me.id ? "you" : [disabling(user), " ", removing(user)])],
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
  const removing = ({ id, email }) => {
    const remove = () => request(`/api/users/${id}`, { method: "DELETE" }).then(() => `${email} is gone.`);
    return sureButton(section, "Remove", remove, `Remove ${email}`);
  };
  return section;
}

export function teamsSection(may) {
  const section = new Section({
    title: "Teams",
    path: "/api/teams",
    collection: "teams",
    empty: "No team yet.",
    columns: [
      ["Name", ({ name }) => name],
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["Id", ({ id }) => el("code", {}, id)],
      ["", (team) => may && removing(team)],
    ],
    form: {
      label: "Add",
      fields: [["name", "Name", {}]],
      send: (body) => request("/api/teams", { method: "POST", body }).then(() => ""),
    },
  });
  const removing = ({ id, name }) => {
    const remove = () => request(`/api/teams/${id}`, { method: "DELETE" }).then(() => `${name} is gone.`);
    return sureButton(section, "Remove", remove, `Remove the team ${name}`);
  };
  return section;
}

/** `users` is null for those who may not list all users: they change whom they have. */
export function membersSection(users, teams) {
  const path = (team, user) => `/api/teams/${team}/members/${user}`;
  const section = new Section({
    title: "Members",
    choice: ["Team", () => teams().map(({ id, name }) => [id, name])],
    path: (team) => team && `/api/teams/${team}/members`,
    collection: "members",
    empty: "Nobody belongs to this team yet.",
    columns: [
      ["E-mail", ({ email }) => email],
      ["Role", (member) => roleChoice(member)],
      ["", (member) => removing(member)],
    ],
    form: users && {
      label: "Add",
      fields: [
        ["user", "User", () => users.rows.map(({ id, email }) => [id, email])],
        ["role", "Role", TEAM_ROLES],
      ],
      send: async ({ user, role }) => {
        await request(path(section.chosen, user), { method: "PUT", body: { role } });
        return `${users.rows.find(({ id }) => id === user).email} is in the team.`;
      },
    },
  });
  const roleChoice = ({ id, email, role }) => {
    const options = TEAM_ROLES.map(([value, words]) => el("option", { value }, words));
    const select = el("select", { "aria-label": `Role of ${email} in the team` }, ...options);
    select.value = role;
    select.addEventListener("change", () => {
      const body = { role: select.value };
      section.act(() => request(path(section.chosen, id), { method: "PUT", body }).then(() => ""));
    });
    return select;
  };
  const removing = ({ id, email }) => {
    const remove = () => request(path(section.chosen, id), { method: "DELETE" });
    const act = () => section.act(() => remove().then(() => `${email} is not in the team any more.`));
    return button("Remove", act, { "aria-label": `Remove ${email} from the team` });
  };
  return section;
}

/** One's own sessions; for those who may edit users, anybody's. */
export function sessionsSection(me, users) {
  const path = (user) => (user === me.id ? "/api/users/me/sessions" : `/api/users/${user}/sessions`);
  const others = () => users.rows.filter(({ id }) => id !== me.id);
  const section = new Section({
    title: users ? "Sessions" : "My sessions",
    choice: users && ["User", () => [me, ...others()].map(({ id, email }) => [id, email])],
    path: (user) => path(user || me.id),
    collection: "sessions",
    empty: "Signed in nowhere.",
    columns: [
      ["Since", ({ created_at: at }) => agoTime(at)],
      ["Until", ({ expires_at: at }) => dayTime(at)],
      ["", (one) => (one.current ? "this one" : ending(one))],
    ],
  });
  const ending = ({ id, created_at: at }) => {
    const end = () => request(`${path(section.chosen || me.id)}/${id}`, { method: "DELETE" });
    const act = () => section.act(() => end().then(() => "That session is ended."));
    return button("End", act, { "aria-label": `End the session of ${at}` });
  };
  return section;
}
