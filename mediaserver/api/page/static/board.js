// Figures, charts and engines, from GET /v1/status.

import { drawBars, drawHistogram, drawLines, ceiling } from "./charts.js";
import { byId, el, setText } from "./dom.js";
import { CAUSES, Growth, History, combined, engineMeasures, firstAudio, quantile } from "./figures.js";
import { bytes, clock, count, milliseconds, percent } from "./units.js";

const GOAL_S = 0.2; // first audio
const SHOWN_S = 300;
const MEASURES = [
  ["workers_busy", "Workers busy", (found) => (found.has("workers") ? `${count(found.get("workers_busy"))} of ${count(found.get("workers"))}` : count(found.get("workers_busy")))],
  ["streams", "Texts in synthesis", (found) => (found.has("streams_limit") ? `${count(found.get("streams"))} of ${count(found.get("streams_limit"))}` : count(found.get("streams")))],
  ["steps_waiting", "Steps waiting", (found) => count(found.get("steps_waiting"))],
  ["synthesis_seconds", "Faster than real time", (found) => (found.get("synthesis_seconds") ? `${(found.get("audio_seconds") / found.get("synthesis_seconds")).toFixed(1)} ×` : "–")],
  ["prompts", "Prompts kept", (found) => `${count(found.get("prompts"))} (${bytes(found.get("prompt_bytes") || 0)})`],
];

export class Board {
  constructor() {
    this.underruns = new History(SHOWN_S);
    this.load = new History(SHOWN_S);
    this.growth = new Growth();
    this.status = null;
  }

  update(status) {
    this.status = status;
    const grown = this.growth.read(status.underruns, status.started_at);
    this.underruns.add(status.now, CAUSES.map(([cause]) => grown[cause] || 0));
    this.load.add(status.now, [status.calls.running, status.load ?? 0]);
    this.showNode(status);
    this.showTiles(status);
    this.draw();
    byId("engines").replaceChildren(...status.engines.map((engine) => engineElement(engine, engineMeasures(status, engine.name))));
    setText(byId("about"), `Chatterline ${status.version}, running for ${clock(status.now - status.started_at)}`);
  }

  draw() {
    if (!this.status) return;
    drawHistogram(byId("first-chart"), firstAudio(this.status), GOAL_S);
    drawBars(byId("underrun-chart"), this.underruns, CAUSES.map(([, text], index) => ["abc"[index], text]));
    const top = ceiling(Math.max(...this.load.points.map(([, [running]]) => running)), 5);
    drawLines(byId("load-chart"), this.load, [
      ["calls", "d", "calls", top],
      ["load", "c", "media thread, 100 % at the top", 1],
    ]);
  }

  showNode(status) {
    const ready = status.engines.some((engine) => engine.ready);
    const [text, kind] = status.draining ? ["draining", "warn"] : ready ? ["taking calls", "good"] : ["engine down", "bad"];
    showBadge(text, kind);
  }

  showTiles(status) {
    setText(byId("tile-calls"), count(status.calls.running));
    const states = Object.entries(status.calls.by_state).map(([state, number]) => `${number} ${state}`).join(", ");
    setText(byId("tile-calls-more"), `of at most ${count(status.calls.max)}${states ? `; ${states}` : ""}`);
    const first = firstAudio(status);
    setText(byId("tile-first"), first.total ? milliseconds(quantile(first, 0.5)) : "–");
    setText(byId("tile-first-more"), first.total ? `median; 95 % within ${milliseconds(quantile(first, 0.95))}` : "nothing said yet");
    const underruns = Object.values(status.underruns).reduce((sum, value) => sum + value, 0);
    setText(byId("tile-underruns"), count(underruns));
    const recent = this.underruns.points.flatMap(([, values]) => values).reduce((sum, value) => sum + value, 0);
    setText(byId("tile-underruns-more"), `since the start; ${count(recent)} while you watch`);
    setText(byId("tile-load"), percent(status.load));
    const late = status.histograms.pacer_lateness_seconds;
    const p99 = late && quantile(combined(late), 0.99);
    setText(byId("tile-load-more"), p99 ? `busy; 99 % of ticks within ${(p99 * 1000).toFixed(1)} ms` : "busy in the last second");
  }
}

export function showBadge(text, kind) {
  const badge = byId("node");
  setText(badge, text);
  badge.className = `badge ${kind}`;
}

function engineElement(engine, found) {
  const state = engine.ready ? (engine.available ? ["busy", "warn"] : ["ready", "good"]) : ["not ready", "bad"];
  const entries = MEASURES.filter(([name]) => found.has(name)).map(([, text, write]) => [text, write(found)]);
  entries.push(["Voices", `${count(engine.voices.length)}, by default ${engine.default_voice}`]);
  return el("div", { class: "engine" },
    el("h3", {}, engine.name, el("span", { class: `badge ${state[1]}`, title: engine.available }, state[0])),
    el("dl", {}, ...entries.flatMap(([text, value]) => [el("dt", {}, text), el("dd", {}, value)])));
}
