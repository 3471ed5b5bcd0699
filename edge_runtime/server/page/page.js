"use strict";

const POLL_MS = 2000;
const MAX_TALK = 20;
const TIERS = ["local", "cache", "frontier", "refused"];
const JUDGED = ["generate", "classify"]; // kinds whose answers a certificate can speak for
const SVG = "http://www.w3.org/2000/svg";
const find = (id) => document.getElementById(id);
let key = sessionStorage.getItem("edge-key") || "";
let currency = null;

// Everything that comes from the daemon goes in as text, never as markup.
function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function fill(parent, nodes) {
  parent.replaceChildren(...nodes);
}

const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(1)} %`);
const number = (value, digits = 1) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

function money(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return `0 ${currency || ""}`.trim();
  const digits = Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return `${value.toFixed(digits)} ${currency || ""}`.trim();
}

function joules(value) {
  return value ? `${value.toPrecision(3)} J` : "–";
}

function uptime(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

async function call(path, body) {
  const headers = { accept: "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const options = body ? { method: "POST", body: JSON.stringify(body), headers } : { headers };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (response.ok) return { answer, headers: response.headers };
  const error = new Error((answer.error && answer.error.message) || `status ${response.status}`);
  error.status = response.status;
  error.edge = answer.edge;
  throw error;
}

function card(name, value) {
  const box = make("div");
  box.append(make("dt", name), make("dd", value));
  return box;
}

function showTraffic(traffic) {
  const time = traffic.latency_ms;
  const here = traffic.latency_here_ms;
  fill(find("cards"), [
    card("questions", `${traffic.questions}`),
    card("a second", number(traffic.per_second, 2)),
    card("escalated", percent(traffic.escalation_rate)),
    card("from cache", percent(traffic.cache_hit_rate)),
    card("degraded", `${traffic.degraded}`),
    card("all: p50 / p95 / p99 ms", [time.p50, time.p95, time.p99].map((v) => number(v, 0)).join(" / ")),
    card("answered here: p50 / p99 ms", [here.p50, here.p99].map((v) => number(v)).join(" / ")),
    card("cost a question", money(traffic.cost_per_task)),
    card("energy a question", joules(traffic.joules_per_task)),
    card("saved by cache", money(traffic.saved)),
  ]);
  const reasons = Object.entries(traffic.reasons).map(([name, count]) => `${name} ${count}`);
  find("reasons").textContent = reasons.length ? `Why: ${reasons.join(", ")}` : "No traffic yet.";
  fill(find("legend"), TIERS.map((tier) => make("span", `${tier} ${traffic.tiers[tier]}`, tier)));
  drawBuckets(traffic.buckets);
}

function drawBuckets(buckets) {
  const highest = Math.max(1, ...buckets.map((one) => TIERS.reduce((sum, t) => sum + one[t], 0)));
  const width = 600 / buckets.length;
  const bars = [];
  buckets.forEach((bucket, at) => {
    let top = 120;
    for (const tier of TIERS) {
      const height = (bucket[tier] / highest) * 112;
      if (!height) continue;
      top -= height;
      const bar = document.createElementNS(SVG, "rect");
      const place = { x: at * width + 1, y: top, width: width - 2, height };
      Object.entries(place).forEach(([name, value]) => bar.setAttribute(name, value));
      bar.setAttribute("class", tier);
      bars.push(bar);
    }
  });
  fill(find("chart"), bars);
}

function row(cells) {
  const line = make("tr");
  cells.forEach((cell) => {
    const isNumber = typeof cell === "object";
    line.append(make("td", isNumber ? cell.number : cell, isNumber ? "number" : ""));
  });
  return line;
}

function showModels(box) {
  const lines = [];
  for (const model of box.models) {
    const name = `${model.name}@${model.version} ${model.variant}`;
    if (!model.certificates.length) {
      const promise = JUDGED.includes(model.kind) ? "no certificate" : "needs no certificate";
      lines.push(row([name, model.kind, "–", promise, "–", "–", "–"]));
    }
    for (const one of model.certificates) {
      const promise = `≤ ${percent(one.alpha)} wrong, ${percent(1 - one.delta)} sure`;
      const state = one.suspended ? `suspended: ${one.suspended}` : "in force";
      const until = one.expires.slice(0, 10);
      lines.push(row([name, model.kind, one.task, promise, percent(one.coverage), until, state]));
    }
  }
  if (!lines.length) lines.push(row(["no model is active: edge-runtime install BUNDLE"]));
  fill(find("models"), lines);
  find("frontiers").textContent = box.frontiers.length
    ? `Frontiers: ${box.frontiers.join(", ")}`
    : "No frontier is configured: this box answers everything itself.";
  const problems = [
    ...box.certificate_problems,
    ...box.events.map((event) => `${event.kind} ${event.subject}: ${event.detail}`),
  ];
  fill(find("problems"), problems.map((text) => make("li", text)));
}

function showRecent(recent) {
  fill(find("recent"), recent.map((one) => {
    const line = row([
      `${number(one.ago_s, 0)} s`, one.model || one.route, one.answered_by || "–", one.tier,
      reason(one), { number: number(one.ms) },
      { number: money(one.cost) }, { number: joules(one.joules) },
    ]);
    line.children[3].className = one.tier;
    return line;
  }));
}

function offerModels(box) {
  const kinds = Object.fromEntries(box.models.map((one) => [one.name, one.kind]));
  const offers = box.models
    .filter((one) => JUDGED.includes(one.kind))
    .map((one) => [one.name, one.kind]);
  for (const endpoint of box.endpoints) {
    offers.unshift([endpoint.name, kinds[endpoint.models[0]] || "generate"]);
  }
  const select = find("model");
  const wanted = JSON.stringify(offers);
  if (select.dataset.offers === wanted) return;
  select.dataset.offers = wanted;
  find("send").disabled = !offers.length;
  const chosen = select.value;
  fill(select, offers.map(([name, kind]) => {
    const option = make("option", `${name} (${kind})`);
    option.value = JSON.stringify([name, kind]);
    return option;
  }));
  if (chosen) select.value = chosen;
}

async function poll() {
  const state = find("state");
  try {
    const { answer: box } = await call("/v1/box");
    currency = box.currency;
    state.textContent = box.ready
      ? `version ${box.version}, up ${uptime(box.uptime_s)}`
      : `not ready: ${box.not_ready_reason}`;
    state.className = box.ready ? "" : "bad";
    find("key-form").hidden = true;
    showTraffic(box.traffic);
    showModels(box);
    showRecent(box.recent);
    offerModels(box);
  } catch (error) {
    state.className = "bad";
    state.textContent = error.status === 401 ? "an API key is needed" : `no answer: ${error.message}`;
    if (error.status === 401) find("key-form").hidden = false;
  }
  setTimeout(poll, POLL_MS);
}

function reason(one) {
  return one.degraded && one.reason !== "degraded" ? `${one.reason}, degraded` : one.reason;
}

function why(edge) {
  if (!edge) return "";
  const parts = [];
  if (edge.answered_by) parts.push(`${edge.tier}: ${edge.answered_by}`);
  if (edge.reason) parts.push(reason(edge));
  if (edge.score !== null && edge.score !== undefined && edge.threshold !== null) {
    parts.push(`score ${edge.score.toFixed(3)} of ${edge.threshold.toFixed(3)} needed`);
  }
  if (edge.detail) parts.push(edge.detail);
  if (edge.cost) parts.push(money(Number(edge.cost)));
  if (edge.joules) parts.push(joules(edge.joules));
  return parts.join(" · ");
}

// A frontier names one label and no scores.
function labels(entry) {
  if (!entry.labels.length) return entry.label;
  return entry.labels.map((one) => `${one.label} ${number(one.score, 3)}`).join("\n");
}

async function ask(event) {
  event.preventDefault();
  const [name, kind] = JSON.parse(find("model").value);
  const text = find("text").value;
  const item = make("li");
  item.append(make("div", text, "said"));
  const talk = find("talk");
  talk.prepend(item);
  while (talk.children.length > MAX_TALK) talk.lastChild.remove();
  find("send").disabled = true;
  const began = performance.now();
  try {
    const { answer } = kind === "classify"
      ? await call("/v1/classify", { model: name, input: text, top_k: 3 })
      : await call("/v1/chat/completions", {
        model: name, messages: [{ role: "user", content: text }] });
    const said = kind === "classify" ? labels(answer.data[0]) : answer.choices[0].message.content;
    const took = `${(performance.now() - began).toFixed(0)} ms`;
    item.append(make("div", said, "answer"), make("div", `${why(answer.edge)} · ${took}`, "who"));
    find("text").value = "";
  } catch (error) {
    item.append(make("div", error.message, "failed"), make("div", why(error.edge), "who"));
  } finally {
    find("send").disabled = false;
    find("text").focus();
  }
}

find("ask").addEventListener("submit", ask);
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value;
  sessionStorage.setItem("edge-key", key);
});
poll();
