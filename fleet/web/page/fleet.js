import { call } from "./api.js";
import { ago, bar, card, count, fill, find, legend, link, make, nothing, pairs, row, short } from "./dom.js";

const HEALTH = [["online", "good"], ["silent", "warn"], ["unreachable", "bad"]];
const GOOD = ["confirmed", "idle"];
const BAD = ["reverting", "reverted", "failed"];
const ENDED = ["rolled_back", "completed", "cancelled"];

export function stateClass(state) {
  if (GOOD.includes(state)) return "good";
  if (BAD.includes(state)) return "bad";
  return state === "deferred" || state === "superseded" ? "warn" : "busy";
}

export function phaseClass(phase) {
  if (phase === "completed") return "good";
  if (["halted", "rolling_back", "rolled_back"].includes(phase)) return "bad";
  if (["holding", "paused"].includes(phase)) return "warn";
  return phase === "running" || phase === "baking" ? "busy" : "waiting";
}

export const words = (name) => name.replaceAll("_", " ");

export async function loadFleet() {
  const [summary, rollouts, alerts] = await Promise.all([
    call("/v1/summary"), call("/v1/rollouts"), call("/v1/alerts?open=true"),
  ]);
  return () => {
    showSummary(summary, alerts.items);
    showItems(summary);
    showRunning(rollouts.items);
    showAlerts(alerts.items);
  };
}

function showSummary(summary, alerts) {
  const failed = Object.values(summary.failures).reduce((sum, one) => sum + one, 0);
  fill(find("fleet-cards"), [
    card("boxes", count(summary.active)),
    card("online", count(summary.health.online)),
    card("wait for approval", count(summary.pending)),
    card("gave a change up", count(failed)),
    card("put out", count(summary.revoked)),
    card("open alerts", count(alerts.length)),
  ]);
  const health = HEALTH.map(([name, className]) => [name, summary.health[name], className]);
  fill(find("fleet-health"), [bar(health), legend(health)]);
  const states = new Map();
  for (const item of summary.items) {
    states.set(item.state, (states.get(item.state) || 0) + item.boxes);
  }
  const parts = [...states].map(([name, boxes]) => [words(name), boxes, stateClass(name)]);
  const kinds = Object.entries(summary.failures).map(([name, boxes]) => [words(name), boxes, "bad"]);
  const nodes = parts.length ? [bar(parts), legend(parts)] : [make("p", "Nothing reported yet.", "note")];
  if (kinds.length) nodes.push(make("h3", "How changes were given up"), legend(kinds));
  fill(find("fleet-states"), nodes);
}

function showItems(summary) {
  const rows = summary.items.map((item) => row([
    item.kind, item.name, item.version, short(item.active),
    { text: words(item.state), className: stateClass(item.state) },
    { number: count(item.boxes) },
    bar([["boxes", item.boxes, stateClass(item.state)]], summary.active),
  ]));
  fill(find("fleet-items"), rows.length ? rows : nothing("No box has reported yet.", 7));
}

function showRunning(rollouts) {
  const open = rollouts.filter((one) => !ENDED.includes(one.phase));
  const rows = open.map((one) => row([
    link(one.name, "rollout", one.id),
    { text: words(one.phase), className: phaseClass(one.phase) },
    one.waves ? `${one.wave} of ${one.waves}` : "–",
    ago(one.since_s),
  ]));
  fill(find("fleet-rollouts"), rows.length ? rows : nothing("None.", 4));
}

function showAlerts(alerts) {
  const items = alerts.map((one) => {
    const className = one.severity === "critical" ? "bad" : "warn";
    return make("li", `${one.rule}, ${ago(one.raised_s)}: ${pairs(one.values)}`, className);
  });
  fill(find("fleet-alerts"), items.length ? items : [make("li", "None.", "note")]);
}
