// Charts, as SVG of a fixed size: what changes is inside, so the page never jumps.

import { el, svg } from "./dom.js";
import { count, milliseconds } from "./units.js";

const HEIGHT = 168;
const LEFT = 34;
const BOTTOM = 20;
const TOP = 10;
const BAR_S = 2; // between two readings
const RIGHT = 6;
const PLOT_HEIGHT = HEIGHT - BOTTOM - TOP;

const y = (share) => TOP + PLOT_HEIGHT * (1 - share);

/** The next round number at or above. */
export function ceiling(value, least) {
  const wanted = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= wanted - 1e-9);
}

/** An empty chart, and the width of what is drawn within its axes: it is drawn for the room that there is. */
function frame(figure, label, top) {
  const width = Math.max(240, Math.round(figure.clientWidth) || 480);
  const right = width - RIGHT;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label },
    svg("line", { class: "axis", x1: LEFT, y1: y(0), x2: right, y2: y(0) }),
    svg("line", { class: "axis", x1: LEFT, y1: y(1), x2: right, y2: y(1) }),
    svg("text", { x: LEFT - 5, y: y(1) + 4, "text-anchor": "end" }, count(top)),
    svg("text", { x: LEFT - 5, y: y(0) + 4, "text-anchor": "end" }, "0"));
  return [chart, right - LEFT];
}

function legend(...entries) {
  return el("div", { class: "legend" },
    ...entries.map(([kind, text]) => el("span", {}, ...(kind ? [el("i", { class: kind })] : []), text)));
}

/** How often each first audio was how late; goal in seconds. */
export function drawHistogram(figure, { bounds, counts, total }, goal) {
  const top = ceiling(Math.max(0, ...counts), 1);
  const [chart, room] = frame(figure, "First audio: how many texts, by their delay", top);
  const width = room / Math.max(1, counts.length);
  counts.forEach((value, index) => {
    const x = LEFT + width * index;
    const range = index < bounds.length ? `up to ${milliseconds(bounds[index])}` : `more than ${milliseconds(bounds.at(-1))}`;
    chart.append(svg("rect", {
      class: "bar", x: x + 1, width: Math.max(1, width - 2), y: y(value / top), height: PLOT_HEIGHT * (value / top),
    }, svg("title", {}, `${range}: ${count(value)}`)));
    if (index < bounds.length && index % 2) {
      chart.append(svg("text", { x: x + width, y: HEIGHT - 5, "text-anchor": "middle" }, milliseconds(bounds[index]).replace(" ms", "")));
    }
    if (bounds[index] === goal) {
      chart.append(svg("line", { class: "goal", x1: x + width, x2: x + width, y1: y(1), y2: y(0) }));
    }
  });
  const note = total ? `${count(total)} texts; dashed: the aim of ${milliseconds(goal)}` : "nothing said yet";
  figure.replaceChildren(chart, legend(["", `milliseconds · ${note}`]));
}

/** Stacked bars of a History, of as many values as there are names, [class, text]. */
export function drawBars(figure, history, names) {
  const { points, seconds } = history;
  const sums = points.map(([, values]) => values.reduce((sum, value) => sum + value, 0));
  const top = ceiling(Math.max(0, ...sums), 5);
  const [chart, room] = frame(figure, "Underruns in the last minutes", top);
  const width = (room * BAR_S) / seconds;
  points.forEach(([ago, values]) => {
    let below = 0;
    values.forEach((value, kind) => {
      if (!value) return;
      below += value;
      chart.append(svg("rect", {
        class: names[kind][0], x: LEFT + room * (1 - ago / seconds) - width, width: Math.max(1.5, width - 0.5),
        y: y(below / top), height: PLOT_HEIGHT * (value / top),
      }, svg("title", {}, `${names[kind][1]}: ${count(value)}`)));
    });
  });
  chart.append(...timeAxis(room));
  figure.replaceChildren(chart, legend(...names));
}

/** A line for each value of a History, with a scale of its own: [class, kind of the legend, text, top]. */
export function drawLines(figure, history, lines) {
  const [chart, room] = frame(figure, "Calls and load in the last minutes", lines[0][3]);
  lines.forEach(([name, , , top], index) => {
    const points = history.points.map(([ago, values]) => {
      const x = LEFT + room * (1 - ago / history.seconds);
      return `${x.toFixed(1)},${y(Math.min(1, (values[index] ?? 0) / top)).toFixed(1)}`;
    });
    if (points.length === 1) points.unshift(points[0]);
    chart.append(svg("polyline", { class: `line ${name}`, points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
  });
  chart.append(...timeAxis(room));
  figure.replaceChildren(chart, legend(...lines.map(([, kind, text]) => [kind, text])));
}

function timeAxis(room) {
  return [
    svg("text", { x: LEFT, y: HEIGHT - 5 }, "5 min ago"),
    svg("text", { x: LEFT + room, y: HEIGHT - 5, "text-anchor": "end" }, "now"),
  ];
}
