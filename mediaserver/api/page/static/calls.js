// The list of calls. A call's row is made once and then changed in place, so that focus and selection stay.

import { byId, el, setText } from "./dom.js";
import { show } from "./levels.js";
import { clock, party } from "./units.js";

const MOST_SHOWN = 50; // with meters; the server watches no more

class Row {
  constructor(call, actions) {
    this.id = call.id;
    this.from = el("div");
    this.to = el("div", { class: "hint" });
    this.state = el("div");
    this.time = el("div", { class: "hint" });
    this.inbound = el("div", { class: "in" });
    this.outbound = el("div", { class: "out" });
    this.said = el("div", { class: "text" });
    this.waiting = el("div", { class: "hint" });
    this.listen = el("button", { type: "button", "aria-pressed": "false", onclick: () => actions.listen(this.id) }, "Listen");
    this.hangUp = el("button", { type: "button", class: "danger", onclick: () => actions.hangUp(this.id) }, "Hang up");
    this.element = el("li", { class: "call", "data-call": call.id },
      el("div", { class: "who" }, this.from, this.to),
      el("div", { class: "state" }, this.state, this.time),
      el("div", { class: "meters", "aria-hidden": "true" },
        el("div", { class: "meter" }, this.inbound), el("div", { class: "meter" }, this.outbound)),
      el("div", { class: "said" }, this.said, this.waiting),
      el("div", { class: "actions" }, this.listen, this.hangUp));
  }

  update(call, now, listened) {
    const [from, to] = [party(call.from), party(call.to)];
    setText(this.from, from);
    setText(this.to, `${call.direction === "outbound" ? "placed to" : "called"} ${to}${call.trunk ? ` · ${call.trunk}` : ""}`);
    this.from.title = call.from;
    this.to.title = call.to;
    setText(this.state, call.held_by_us ? "held by us" : call.state);
    setText(this.time, `${clock(now - (call.answered_at ?? call.started_at))}${call.codec ? ` · ${call.codec}` : ""}`);
    const waiting = call.speech.filter((one) => one.state === "queued").length;
    const speaking = call.speech.find((one) => one.state === "speaking");
    const text = speaking ? speaking.text || "recorded sound" : waiting ? "about to speak" : "silent";
    setText(this.said, text);
    setText(this.waiting, waiting && speaking ? `+${waiting}` : "");
    this.waiting.title = `${waiting} more waiting`;
    this.said.title = text;
    this.said.classList.toggle("silent", !speaking);
    const who = `${from} to ${to}`;
    this.listen.setAttribute("aria-label", `Listen to the call from ${who}`);
    this.hangUp.setAttribute("aria-label", `Hang up the call from ${who}`);
    this.listen.setAttribute("aria-pressed", String(listened === call.id));
    this.listen.disabled = call.state === "ringing";
  }
}

export class CallList {
  /** actions: listen(id), hangUp(id) */
  constructor(actions) {
    this.actions = actions;
    this.rows = new Map();
    this.list = byId("call-list");
  }

  get ids() {
    return [...this.rows.keys()];
  }

  /** now: the server's clock, in seconds since 1970. */
  update({ calls, total }, now, listened) {
    const shown = calls.slice(0, MOST_SHOWN);
    const running = new Set(shown.map((call) => call.id));
    for (const [id, row] of this.rows) {
      if (!running.has(id)) {
        row.element.remove();
        this.rows.delete(id);
      }
    }
    for (const call of shown) {
      let row = this.rows.get(call.id);
      if (!row) {
        row = new Row(call, this.actions);
        this.rows.set(call.id, row);
        this.list.append(row.element); // the server gives the oldest first
      }
      row.update(call, now, listened);
    }
    byId("no-calls").hidden = total > 0;
    setText(byId("calls-count"), total > shown.length ? `the oldest ${shown.length} of ${total}` : "");
  }

  showLevels(levels) {
    for (const [id, row] of this.rows) {
      const [inbound, outbound] = levels[id] || [-90, -90];
      show(row.inbound, inbound);
      show(row.outbound, outbound);
    }
  }
}
