import { call } from "./api.js";
import {
  bar, card, count, fill, find, joules, link, make, money, nothing, number, nowS, percent, row,
} from "./dom.js";
import { plot } from "./plot.js";

const SERIES = 6;
const OTHERS = "others";
const perTask = (name) => (one) => (one.resolved > 0 ? one[name] / one.resolved : null);
const amount = (value) => money(Number(value.toPrecision(3)));
// What can be plotted: sums stand on top of each other, ratios are lines.
const MEASURES = [
  ["money", "money", { stacked: true, of: (one) => one.money, show: amount }],
  ["energy", "energy", { stacked: true, of: (one) => one.joules, show: joules }],
  ["requests", "requests", { stacked: true, of: (one) => one.requests, show: count }],
  ["task-money", "money a resolved task", { of: perTask("money"), show: amount }],
  ["task-energy", "energy a resolved task", { of: perTask("joules"), show: joules }],
  ["tokens", "tokens a request", { of: (one) => one.tokens_per_request, show: (v) => number(v, 0) }],
  ["cache", "share from cache", { of: (one) => one.cache_share, show: percent }],
  ["escalated", "share escalated", { of: (one) => one.escalation_share, show: percent }],
];

export async function loadCost() {
  const hours = find("cost-hours").value;
  const by = find("cost-by").value;
  const [totals, parts, budgets] = await Promise.all([
    call(`/v1/cost?by=total&hours=${hours}`),
    call(`/v1/cost?by=${by}&hours=${hours}`),
    call("/v1/budgets"),
  ]);
  return () => {
    offerMeasures();
    showCards(totals.items);
    showPlot(parts, by);
    showParts(parts.items, totals.items, by);
    showBudgets(budgets.items);
  };
}

function offerMeasures() {
  if (find("cost-what").children.length) return;
  fill(find("cost-what"), MEASURES.map(([value, text]) => {
    const option = make("option", text);
    option.value = value;
    return option;
  }));
}

const nameOf = (label) => label || "(none named)";
const inCurrency = (value, currency) =>
  value === null || value === undefined ? "–" : `${money(value)} ${currency}`;

function showCards(items) {
  const [all] = items; // the dearest currency; the table has the others
  if (!all) {
    fill(find("cost-cards"), [card("requests", "0")]);
    return;
  }
  fill(find("cost-cards"), [
    card("spent", inCurrency(all.money, all.currency)),
    card("a resolved task", money(all.money_per_resolved)),
    card("a request", money(all.money_per_request)),
    card("saved by cache", money(all.saved)),
    card("energy", joules(all.joules)),
    card("energy a resolved task", joules(all.joules_per_resolved)),
    card("requests", count(all.requests)),
    card("tasks resolved", count(all.resolved)),
    card("tokens a request", number(all.tokens_per_request, 0)),
    card("from cache", percent(all.cache_share)),
    card("escalated", percent(all.escalation_share)),
  ]);
}

function showPlot({ items, steps, since_s, step_s }, by) {
  const chosen = find("cost-what").value || MEASURES[0][0];
  const [, title, measure] = MEASURES.find(([value]) => value === chosen);
  const currency = items.length ? items[0].currency : "";
  const mine = items.filter((one) => one.currency === currency);
  const named = mine.slice(0, SERIES).map((one) => one.label);
  const times = [];
  const first = Math.floor(since_s / step_s) * step_s;
  for (let at = first; at <= nowS(); at += step_s) times.push(at);
  const series = named.map((label, at) => ({
    name: nameOf(label), className: `s${at}`, values: times.map(() => null),
  }));
  // Shares of a budget's work overlap: they are not put on top of each other.
  const stacked = Boolean(measure.stacked) && by !== "budget";
  if (stacked && mine.length > SERIES) {
    series.push({ name: OTHERS, className: "waiting", values: times.map(() => null) });
  }
  for (const one of steps) {
    const at = (one.at_s - first) / step_s;
    const line = series[named.indexOf(one.label)] || (stacked && series[SERIES]);
    if (one.currency !== currency || !line || at < 0 || at >= times.length) continue;
    const value = measure.of(one);
    line.values[at] = line.values[at] === null || value === null ? value : line.values[at] + value;
  }
  plot("cost-plot", "cost-legend", {
    series, times, stepS: step_s, stacked, show: measure.show,
    label: `${title} by ${by} over time`,
  });
  const other = [...new Set(items.map((one) => one.currency))].filter((one) => one !== currency);
  const units = currency ? `Money in ${currency}.` : "";
  find("cost-note").textContent = [
    units,
    other.length ? `The table also has ${other.join(", ")}.` : "",
    by === "budget" ? "A budget's work is that of the boxes that have it; work may fall under several." : "",
  ].join(" ").trim();
}

function showParts(items, totals, by) {
  const title = by[0].toUpperCase() + by.slice(1);
  find("cost-table-title").textContent = `By ${by}`;
  find("cost-label").textContent = title;
  const whole = new Map(totals.map((one) => [one.currency, one.money]));
  const rows = items.map((one, at) => row([
    nameOf(one.label),
    { number: count(one.requests) },
    { number: count(one.resolved) },
    { number: inCurrency(one.money, one.currency) },
    { number: money(one.money_per_resolved) },
    { number: joules(one.joules) },
    { number: joules(one.joules_per_resolved) },
    { number: number(one.tokens_per_request, 0) },
    { number: percent(one.cache_share) },
    { number: percent(one.escalation_share) },
    bar([["share", one.money, at < SERIES ? `s${at}` : "waiting"]], whole.get(one.currency)),
  ]));
  fill(find("cost-rows"), rows.length ? rows : nothing("Nothing was heard.", 11));
}

function showBudgets(items) {
  const rows = items.map((one) => {
    const used = one.spent + one.reserved;
    const state = one.full ? "bad" : one.nearly ? "warn" : "good";
    const parts = [["spent", one.spent, state], ["reserved", one.reserved, "waiting"]];
    return row([
      one.scope,
      one.period,
      bar(parts, Math.max(one.limit, used)),
      { number: inCurrency(one.spent, one.currency) },
      { number: money(one.reserved) },
      { number: money(one.limit) },
      { number: one.late ? `${count(one.boxes)} (${count(one.late)} late)` : count(one.boxes) },
      { number: count(one.nearly) },
      { number: count(one.full) },
      one.fullest ? link(`${one.fullest} ${percent(one.fullest_share)}`, "box", one.fullest) : "–",
    ]);
  });
  fill(find("budgets-rows"), rows.length ? rows : nothing("No box has a budget.", 10));
}
