// The operator page: asks the control API each second or two, and shows what it says.

import { forgetToken, getToken, request, setToken } from "./api.js";
import { Board, showBadge } from "./board.js";
import { CallList } from "./calls.js";
import { byId, el, setText } from "./dom.js";
import { Levels, show } from "./levels.js";
import { Listening } from "./listen.js";
import { party } from "./units.js";

const CALLS_MS = 1000;
const STATUS_MS = 2000;
const ANSWER_MS = 500;

const board = new Board();
const calls = new CallList({ listen: toggleListening, hangUp });
const levels = new Levels((all) => calls.showLevels(all));
let listening = null;
let timers = [];
let ahead = 0; // of the server's clock before ours, in seconds

// Who

function showSignIn(why = "") {
  timers.forEach(clearInterval);
  timers = [];
  levels.close();
  if (listening) listening.stop();
  byId("sign-in").hidden = false;
  byId("board").hidden = byId("drain").hidden = byId("sign-out").hidden = true;
  showBadge("not connected", "");
  notify(why);
  byId("token").focus();
}

async function signIn() {
  let status;
  try {
    status = await request("GET", "/v1/status");
  } catch (error) {
    if (error.status === 401) forgetToken();
    showSignIn(error.status === 401 ? "The token is unknown, or has expired." : message(error));
    return;
  }
  byId("sign-in").hidden = true;
  byId("board").hidden = byId("drain").hidden = byId("sign-out").hidden = false;
  byId("token").value = "";
  notify("");
  takeStatus(status);
  await Promise.all([showCalls(), showTrunks()]);
  timers = [setInterval(whileSeen(showCalls), CALLS_MS), setInterval(whileSeen(showStatus), STATUS_MS)];
}

/** Not while the page is hidden, nor while the last answer is still to come. */
function whileSeen(work) {
  let busy = false;
  return async () => {
    if (busy || document.hidden) return;
    busy = true;
    try { await work(); } finally { busy = false; }
  };
}

// What is

async function showStatus() {
  const status = await tried(request("GET", "/v1/status"));
  if (status) takeStatus(status);
}

function takeStatus(status) {
  ahead = status.now - Date.now() / 1000;
  board.update(status);
  setText(byId("drain"), status.draining ? "Take calls again" : "Drain");
  byId("drain").dataset.draining = String(status.draining);
}

async function showCalls() {
  const list = await tried(request("GET", "/v1/calls?limit=50"));
  if (!list) return;
  calls.update(list, Date.now() / 1000 + ahead, listening && listening.call);
  levels.watch(calls.ids);
}

async function showTrunks() {
  const answer = await tried(request("GET", "/v1/trunks"));
  if (!answer) return;
  byId("trunk").replaceChildren(...answer.trunks.map((name) =>
    el("option", { value: name, selected: name === "self" }, name === "self" ? "self (this server)" : name)));
}

/** The answer; null after an error, which is shown. */
async function tried(answer) {
  try {
    const value = await answer;
    if (byId("notice").dataset.passing) notify("");
    return value ?? true;
  } catch (error) {
    if (error.status === 401) {
      forgetToken();
      showSignIn("The token is unknown, or has expired.");
    } else {
      if (error.status === 0) showBadge("no answer", "bad");
      notify(message(error), error.status === 0);
    }
    return null;
  }
}

const message = (error) => (error.status === 403 ? `Not allowed: ${error.message}.` : `That failed: ${error.message}.`);

/** passing: gone with the next answer. */
function notify(text, passing = false) {
  const notice = byId("notice");
  setText(notice, text);
  notice.hidden = !text;
  notice.dataset.passing = passing ? "yes" : "";
}

// What is done

async function hangUp(id) {
  notify("");
  await tried(request("DELETE", `/v1/calls/${encodeURIComponent(id)}`));
  await showCalls();
}

async function toggleDrain() {
  const draining = byId("drain").dataset.draining === "true";
  if (!draining && !confirm("Take no more calls? Running calls go on.")) return;
  notify("");
  await tried(request(draining ? "DELETE" : "POST", "/v1/drain"));
  await showStatus();
}

async function placeCall(event) {
  event.preventDefault();
  const button = byId("place");
  const placed = byId("placed");
  button.disabled = true;
  notify("");
  setText(placed, "placing …");
  // Here, not later: a browser lets sound begin only in the handler of a click.
  const ears = byId("hear").checked ? newListening() : null;
  const call = await tried(request("POST", "/v1/calls", {
    to: byId("to").value, trunk: byId("trunk").value, text: byId("text").value, hang_up_after: true,
  }));
  button.disabled = false;
  if (!call) {
    setText(placed, "");
    if (ears) ears.stop();
    return;
  }
  await showCalls();
  await follow(call.id, ears);
}

/** Tell how a call goes that was placed here, and hear it from its answer on. */
async function follow(id, ears) {
  const placed = byId("placed");
  for (;;) {
    const call = await request("GET", `/v1/calls/${encodeURIComponent(id)}`).catch(() => null);
    if (!call) {
      setText(placed, "");
      break;
    }
    setText(placed, call.state === "ended" ? `ended: ${(call.end_reason || "").replaceAll("_", " ")}` : call.state);
    if (call.state === "ended") break;
    if (ears && !ears.over && !ears.call && call.state !== "ringing") hear(ears, id);
    await new Promise((resolve) => { setTimeout(resolve, ANSWER_MS); });
  }
  if (ears && !ears.call) ears.stop("The call was not answered.");
}

// What is heard

function newListening() {
  if (listening) listening.stop();
  const bars = { inbound: byId("listen-inbound"), outbound: byId("listen-outbound") };
  const made = new Listening(
    (track, level) => show(bars[track], level),
    (why) => {
      Object.values(bars).forEach((bar) => show(bar, -90));
      if (listening !== made) return;
      listening = null;
      byId("listen-stop").disabled = true;
      setText(byId("listen-what"), why || "To nothing. Choose “Listen” at a call.");
      document.querySelectorAll("#call-list [aria-pressed=true]").forEach((one) => one.setAttribute("aria-pressed", "false"));
    },
  );
  listening = made;
  byId("listen-stop").disabled = false;
  setText(byId("listen-what"), "Waiting for the answer.");
  return made;
}

function hear(ears, id) {
  ears.start(id);
  const row = calls.rows.get(id);
  setText(byId("listen-what"), row ? `To the call from ${row.from.textContent}.` : "To the call that was placed.");
  if (row) row.listen.setAttribute("aria-pressed", "true");
}

function toggleListening(id) {
  if (listening && listening.call === id) listening.stop();
  else hear(newListening(), id);
}

byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  signIn();
});
byId("sign-out").addEventListener("click", () => {
  forgetToken();
  showSignIn();
});
byId("drain").addEventListener("click", toggleDrain);
byId("place-form").addEventListener("submit", placeCall);
byId("listen-stop").addEventListener("click", () => listening && listening.stop());
document.addEventListener("visibilitychange", () => (document.hidden ? levels.close() : timers.length && showCalls()));
addEventListener("resize", () => board.draw());

// For whoever looks into a problem with the sound: pieces of audio received, and whether they can sound.
Object.defineProperty(window, "chatterline", {
  value: {
    get heard() { return listening ? listening.heard : 0; },
    get playing() { return listening ? listening.context.state : "closed"; },
  },
});

if (getToken()) signIn();
else showSignIn();
