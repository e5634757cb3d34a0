/** The page: signed out it is a form, signed in it is five live parts. */

import { request } from "./api.js";
import { keepCounting } from "./dom.js";
import { Light, summary } from "./live/light.js";
import { Link } from "./live/link.js";
import { Activity } from "./parts/activity.js";
import { Logs } from "./parts/logs.js";
import { Metrics } from "./parts/metrics.js";
import { PersonalNotices, TeamNotices } from "./parts/notifications.js";
import { SignIn } from "./sign-in.js";

const LOST = "The connection to the server was lost. Reconnecting; what you miss is caught up.";
// Between tries when the server cannot be reached at the very start.
const TRY_AGAIN = 2_000;

const at = (id) => document.getElementById(id);
const signIn = new SignIn(at("sign-in"), () => link.session("in"));
const link = new Link((change) => {
  if (change === "in") start();
  else leave(change === "ended" ? "Your session ended. Sign in to go on." : "");
});
const overall = new Light(at("overall"));

const logs = new Logs(at("logs"), link, summarize);
const metrics = new Metrics(at("metrics"), link, summarize);
const activity = new Activity(at("activity"), link, summarize);
const personal = new PersonalNotices(at("personal"), link, summarize, (unread, item) => {
  document.title = unread ? `(${unread}) Headwater` : "Headwater";
  if (item) at("announce").textContent = `${item.level}: ${item.title}`;
});
const team = new TeamNotices(at("team"), link, summarize);
const parts = [logs, metrics, activity, personal, team];

/** Show the console if there is a session, the form if not. */
async function start() {
  let user;
  try {
    user = await request("/api/users/me");
  } catch (problem) {
    if (problem.status === 401) return leave();
    banner(`${problem.message} Trying again.`);
    at("console").hidden = false;
    setTimeout(start, TRY_AGAIN);
    return;
  }
  banner(null);
  signIn.hide();
  at("console").hidden = false;
  at("who").textContent = user.email;
  logs.start();
  metrics.start();
  activity.start();
  const teams = await team.start(user);
  if (!at("console").hidden) personal.start(user, teams);
}

function leave(message = "") {
  for (const part of parts) part.stop();
  at("console").hidden = true;
  document.title = "Headwater";
  signIn.show(message);
}

/** The overall light, and a banner while nothing gets through. */
function summarize() {
  const states = parts.map((part) => part.state);
  const [state, words] = summary(states);
  overall.show(state, words);
  const through = states.some((one) => ["live", "polling", "connecting"].includes(one));
  banner(state === "reconnecting" && !through ? LOST : null);
}

function banner(text) {
  at("banner").hidden = !text;
  at("banner").textContent = text ?? "";
}

at("sign-out").addEventListener("click", async () => {
  try {
    await request("/api/auth/logout", { method: "POST" });
  } catch (problem) {
    // Signed out already is what was wanted; anything else leaves the session open: say so.
    if (problem.status !== 401) return banner(`You are still signed in. ${problem.message}`);
  }
  link.session("out");
});

keepCounting();
start();
