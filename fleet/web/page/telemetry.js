import { call } from "./api.js";
import { card, chart, count, fill, find, joules, make, money, nothing, number, percent, row } from "./dom.js";

const HOUR_S = 3600;
const TIERS = [["local", "good"], ["cache", "cache"], ["frontier", "warn"]];

const series = async (metric, by, hours) =>
  (await call(`/v1/telemetry/series?metric=${metric}&by=${by}&hours=${hours}`)).items;

export async function loadTelemetry() {
  const hours = Number(find("hours").value);
  const [totals, tiers, asked, escalated, cost, energy, saved] = await Promise.all([
    call(`/v1/telemetry/totals?hours=${hours}`),
    series("edge_decisions_total", "tier", hours),
    series("edge_decisions_total", "endpoint", hours),
    series("edge_escalations_total", "endpoint", hours),
    series("edge_cost_total", "tier", hours),
    series("edge_joules_total", "source", hours),
    series("edge_saved_total", "cache", hours),
  ]);
  return () => {
    showTotals(totals, saved);
    showChart(tiers, hours, totals.since_s);
    showEndpoints(byLabel(asked), byLabel(escalated));
    showMoney(byLabel(cost), byLabel(energy));
  };
}

function byLabel(points) {
  const sums = new Map();
  for (const one of points) sums.set(one.label, (sums.get(one.label) || 0) + one.value);
  return sums;
}

const seconds = (value) => (value === undefined ? "–" : `${number(value, 2)} s`);

function showTotals({ figures, rows }, saved) {
  const tokens = figures.requests ? figures.output_tokens / figures.requests : undefined;
  fill(find("telemetry-cards"), [
    card("questions", count(figures.requests)),
    card("escalated", percent(figures.escalation_rate)),
    card("from cache", percent(figures.cache_hit_rate)),
    card("schema held", percent(figures.schema_valid_rate)),
    card("tokens a question", Number.isFinite(tokens) ? number(tokens) : "–"),
    card("tokens a busy second", number(figures.tokens_per_s)),
    card("p50 / p95", `${seconds(figures.p50_s)} / ${seconds(figures.p95_s)}`),
    card("tasks resolved", count(figures.tasks_resolved)),
    card("cost", money(figures.cost)),
    card("cost a resolved task", money(figures.cost_per_task)),
    card("cost a question", money(figures.cost_per_request)),
    card("saved by cache", saved.length ? money(byLabel(saved).get("")) : "–"),
    card("energy", joules(figures.joules)),
    card("energy a resolved task", joules(figures.joules_per_task)),
    card("rows heard", count(rows)),
  ]);
}

function showChart(tiers, hours, sinceS) {
  const first = Math.ceil(sinceS / HOUR_S);
  const columns = Array.from({ length: hours }, () => TIERS.map(([, name]) => [0, name]));
  const known = TIERS.map(([name]) => name);
  for (const point of tiers) {
    const column = columns[point.hour_s / HOUR_S - first];
    const at = known.indexOf(point.label);
    if (column && at >= 0) column[at][0] += point.value;
  }
  chart(find("chart"), columns);
  const sums = byLabel(tiers);
  fill(find("legend"), TIERS.map(([name, className]) =>
    make("span", `${name} ${count(sums.get(name) || 0)}`, className)));
}

function showEndpoints(asked, escalated) {
  const rows = [...asked].sort((one, other) => other[1] - one[1]).map(([name, questions]) => {
    const away = escalated.get(name) || 0;
    return row([name || "(none named)", { number: count(questions) }, { number: count(away) },
      { number: percent(questions ? away / questions : null) }]);
  });
  fill(find("endpoints"), rows.length ? rows : nothing("Nothing was heard.", 4));
}

function showMoney(cost, energy) {
  const rows = [
    ...[...cost].map(([tier, sum]) => row(["money", tier, { number: money(sum) }])),
    ...[...energy].map(([source, sum]) => row(["energy", source, { number: joules(sum) }])),
  ];
  fill(find("money"), rows.length ? rows : nothing("Nothing was heard.", 3));
}
