// Bars on top of each other, or lines, over time, with axes. Text scales with the drawing.
import { drawn, fill, find, make } from "./dom.js";

const WIDE = 1000;
const HIGH = 250;
const LEFT = 62;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 24;
const DAY_S = 86400;

function niceSteps(highest) {
  const rough = (highest > 0 ? highest : 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const count = Math.max(1, Math.ceil((highest > 0 ? highest : 1) / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, at) => at * step);
}

function moment(atS, stepS) {
  const text = new Date(atS * 1000).toISOString();
  return stepS < DAY_S ? text.slice(11, 16) : text.slice(5, 10);
}

function axes(ticks, times, stepS, show) {
  const nodes = [];
  const top = ticks[ticks.length - 1];
  for (const tick of ticks) {
    const y = HIGH - BOTTOM - (tick / top) * (HIGH - TOP - BOTTOM);
    nodes.push(drawn("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y, y2: y }, "grid"));
    const text = drawn("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" });
    text.textContent = show(tick);
    nodes.push(text);
  }
  const width = (WIDE - LEFT - RIGHT) / times.length;
  const every = Math.ceil(times.length / 12);
  const days = stepS < DAY_S && times.length > 48;
  times.forEach((atS, at) => {
    if (days ? atS % DAY_S : at % every) return;
    const place = { x: LEFT + (at + 0.5) * width, y: HIGH - 6, "text-anchor": "middle" };
    const text = drawn("text", place);
    text.textContent = moment(atS, days ? DAY_S : stepS);
    nodes.push(text);
  });
  return nodes;
}

function bars(series, times, top, say) {
  const width = (WIDE - LEFT - RIGHT) / times.length;
  const gap = Math.min(2, width / 6);
  const nodes = [];
  times.forEach((atS, at) => {
    let y = HIGH - BOTTOM;
    for (const one of series) {
      const value = one.values[at];
      if (!value || value < 0) continue;
      const height = (value / top) * (HIGH - TOP - BOTTOM);
      y -= height;
      const place = { x: LEFT + at * width + gap, y, width: width - 2 * gap, height };
      const bar = drawn("rect", place, one.className);
      const title = drawn("title", {});
      title.textContent = say(one, atS, value);
      bar.append(title);
      nodes.push(bar);
    }
  });
  return nodes;
}

// A gap in the values is a gap in the line; a value alone is a point.
function lines(series, times, top, say) {
  const width = (WIDE - LEFT - RIGHT) / times.length;
  const nodes = [];
  for (const one of series) {
    let path = "";
    let open = false;
    times.forEach((atS, at) => {
      const value = one.values[at];
      if (value === null || value === undefined) {
        open = false;
        return;
      }
      const x = LEFT + (at + 0.5) * width;
      const y = HIGH - BOTTOM - (Math.max(0, value) / top) * (HIGH - TOP - BOTTOM);
      path += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      open = true;
      const dot = drawn("circle", { cx: x, cy: y, r: 2.5 }, one.className);
      const title = drawn("title", {});
      title.textContent = say(one, atS, value);
      dot.append(title);
      nodes.push(dot);
    });
    nodes.unshift(drawn("path", { d: path }, `${one.className} trace`));
  }
  return nodes;
}

// `series` are {name, className, values}, one value a time of `times`; null is no value.
export function plot(id, legendId, { series, times, stepS, stacked, show, label }) {
  const heights = times.map((_, at) => {
    const values = series.map((one) => Math.max(0, one.values[at] || 0));
    return stacked ? values.reduce((sum, one) => sum + one, 0) : Math.max(0, ...values);
  });
  const ticks = niceSteps(Math.max(0, ...heights));
  const top = ticks[ticks.length - 1];
  const svg = drawn("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label }, "plot");
  const say = (one, atS, value) => `${one.name}, ${moment(atS, stepS)}: ${show(value)}`;
  svg.append(...axes(ticks, times, stepS, show));
  svg.append(...(stacked ? bars : lines)(series, times, top, say));
  fill(find(id), [svg]);
  fill(find(legendId), series.map((one) => make("span", one.name, one.className)));
}
