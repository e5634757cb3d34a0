/** The page: signed out it is a form, signed in it is live parts and the administration. */

import { Admin } from "./admin/admin.js";
import { everything, request } from "./api.js";
import { keepCounting } from "./dom.js";
import { Light, summary } from "./light.js";
import { Logs } from "./logs/logs.js";
import { Activity } from "./parts/activity.js";
import { Answers } from "./parts/answers.js";
import { Metrics } from "./parts/metrics.js";
import { Notifications } from "./parts/notifications.js";
import { Status } from "./parts/status.js";
import { SignIn } from "./sign-in.js";
import { chooseTheme } from "./theme.js";
import { Drawer } from "./wire/drawer.js";

const LOST = "The connection to the server was lost. Reconnecting; what you miss is caught up.";
const ENDED = "Your session ended. Sign in to go on.";
// Between tries when the server cannot be reached at the very start.
const TRY_AGAIN = 2_000;

const at = (id) => document.getElementById(id);
let user = null;
let waits = true; // the satellites' status, until the other parts stream

// Another tab signed in or out: all show the same.
const tabs = new BroadcastChannel("headwater:session");
tabs.onmessage = ({ data }) => (data === "in" ? start() : leave());

const signIn = new SignIn(at("sign-in"), async () => {
  tabs.postMessage("in");
  await start();
});
const overall = new Light(at("overall"));
const drawer = new Drawer(at("wire"));
const admin = new Admin(at("admin"));
const page = {
  user: () => user,
  onState: summarize,
  wire: (part, button) => drawer.toggle(part, button),
  // What one user was shown is taken away, as another may be the next: so everything begins anew.
  sessionEnded: () => user && leave(ENDED),
};
const logs = new Logs(at("logs"), page);
const metrics = new Metrics(at("metrics"), page);
const activity = new Activity(at("activity"), page);
const status = new Status(at("status"), page);
const answers = new Answers(at("answers"), page);
const notifications = new Notifications(at("notifications"), page, (unread, item) => {
  document.title = unread ? `(${unread}) Headwater` : "Headwater";
  if (item) at("announce").textContent = `${item.level}: ${item.title}`;
});
const parts = [logs, metrics, activity, status, answers, notifications];

/** Show the console if there is a session, the form if not. */
async function start() {
  let session;
  try {
    session = await request("/api/auth/session");
  } catch (problem) {
    const words = `${problem.message} Trying again.`;
    if (at("console").hidden) signIn.show(words);
    else banner(words);
    setTimeout(start, TRY_AGAIN);
    return;
  }
  banner(null);
  signIn.offer(session.accounts);
  drawer.offerKill(session.accounts.length > 0);
  if (!session.user) return leave();
  const fresh = at("console").hidden;
  user = session.user;
  signIn.hide();
  at("console").hidden = false;
  at("who").textContent = user.email;
  show(location.hash === "#admin" ? "admin" : "live");
  if (fresh) at("console-title").focus();
  waits = true;
  logs.start();
  metrics.start();
  activity.start();
  // Only a demo has a model to ask, if a scripted one.
  if (session.accounts.length) answers.start();
  const teams = await everything("/api/users/me/teams", "teams").catch(() => []);
  if (user !== session.user || at("console").hidden) return;
  notifications.start(user, teams);
  admin.show(user, teams);
}

function leave(message = "") {
  user = null;
  waits = true;
  drawer.close();
  for (const part of parts) part.stop();
  admin.clear();
  at("console").hidden = true;
  document.title = "Headwater";
  signIn.show(message);
}

/** The live parts, or the administration. */
function show(view) {
  for (const name of ["live", "admin"]) {
    at(name).hidden = name !== view;
    at(`to-${name}`).setAttribute("aria-current", name === view ? "page" : "false");
  }
  if (view === "admin") drawer.close();
}

/** The overall light, and a banner while nothing gets through. */
function summarize() {
  const states = parts.map((part) => part.state);
  const [state, words] = summary(states);
  overall.show(state, words);
  const through = states.some((one) => ["live", "polling", "connecting"].includes(one));
  // By HTTP/1.1 five feeds stream. A demo has six, so the one that changes least is the last.
  if (user && waits && notifications.state !== "idle" && !states.includes("connecting")) {
    waits = false;
    status.start();
  }
  banner(["reconnecting", "stale"].includes(state) && !through ? LOST : null);
}

function banner(text) {
  at("banner").hidden = !text;
  at("banner").textContent = text ?? "";
}

addEventListener("hashchange", () => show(location.hash === "#admin" ? "admin" : "live"));

at("sign-out").addEventListener("click", async () => {
  try {
    await request("/api/auth/logout", { method: "POST" });
  } catch (problem) {
    // Signed out already is what was wanted; anything else leaves the session open: say so.
    if (problem.status !== 401) return banner(`You are still signed in. ${problem.message}`);
  }
  tabs.postMessage("out");
  leave();
});

chooseTheme(at("theme"));
keepCounting();
start();
