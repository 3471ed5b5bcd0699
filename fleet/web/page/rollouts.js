import { call, mayOperate } from "./api.js";
import { ago, bar, card, fill, find, legend, link, make, nothing, number, percent, row, short } from "./dom.js";
import { phaseClass, words } from "./fleet.js";

const LIVE = ["running", "baking", "holding", "paused"];
// What is worth a button in which phase; the control host decides what is done.
const ACTIONS = {
  approve: ["draft"],
  pause: ["running", "baking", "holding"],
  resume: ["paused", "holding"],
  retry: [...LIVE, "completed"],
  halt: LIVE,
  rollback: [...LIVE, "halted", "completed"],
  cancel: ["draft", "approved", ...LIVE, "halted"],
};
const VERDICTS = { pass: "good", insufficient: "warn", fail: "bad" };
const WAVE = [["confirmed", "good"], ["open", "busy"], ["lost", "bad"], ["waiting", "waiting"], ["superseded", "warn"]];
const MAX_BOXES = 200;
const LOST = ["failed", "reverted", "stuck", "unreachable"];
let chosen = "";
let explained = { of: "", items: [] };

export async function loadRollouts() {
  const { items } = await call("/v1/rollouts");
  return () => {
    const rows = items.map((one) => row([
      link(one.name, "rollout", one.id), `${one.kind} ${one.item} ${short(one.digest)}`,
      { text: words(one.phase), className: phaseClass(one.phase) }, waveOf(one),
      ago(one.since_s), one.filed_by, ago(one.filed_at_s),
    ]));
    fill(find("rollouts-rows"), rows.length ? rows : nothing("None was filed yet.", 7));
  };
}

const waveOf = (one) => (one.waves ? `${one.wave} of ${one.waves}` : "–");

export async function loadRollout(id) {
  const path = `/v1/rollouts/${encodeURIComponent(id)}`;
  const [page, boxes] = await Promise.all([call(path), call(`${path}/boxes?limit=${MAX_BOXES}`)]);
  await explain(path, page.verdicts);
  return () => {
    find("rollout-title").textContent = page.name;
    showCards(page);
    showActions(page);
    fill(find("rollout-waves"), page.waves_by_status.map((wave) => waveLine(page, wave)));
    showGuards(page, explained.items);
    showHistory(page.history);
    showBoxes(boxes);
  };
}

// Reading all evidence again costs the control host something: only when a verdict is new.
async function explain(path, verdicts) {
  const of = `${path} ${verdicts.map((one) => one.id).join()}`;
  if (explained.of !== of) explained = { of, items: (await call(`${path}/explain`)).items };
}

function showCards(page) {
  fill(find("rollout-cards"), [
    card("phase", make("span", words(page.phase), phaseClass(page.phase))),
    card("since", ago(page.since_s)),
    card("wave", waveOf(page)),
    card(page.kind, page.item),
    card("digest", short(page.digest)),
    card("release", `${page.plan.change.release}`),
    card("boxes", page.plan.target.boxes === "true" ? "all" : page.plan.target.boxes),
    card("filed", `${page.filed_by}, ${ago(page.filed_at_s)}`),
  ]);
}

function waveLine(page, wave) {
  const line = make("div", undefined, "wave");
  const parts = WAVE.map(([name, className]) => [name, wave[name], className]);
  const current = wave.wave === page.wave && LIVE.includes(page.phase);
  if (current) line.classList.add("now");
  const some = parts.filter(([, count]) => count);
  const back = ["rolling_back", "rolled_back"].includes(page.phase);
  line.append(
    make("span", wave.wave === 0 ? "held back" : `wave ${wave.wave}`), bar(parts),
    some.length ? legend(some) : make("div", back ? "all told to go back" : "nobody", "legend note"),
  );
  return line;
}

// The buttons are made anew only when the phase moves, so that none is lost under the pointer.
function showActions(page) {
  const form = find("rollout-orders");
  form.hidden = !mayOperate();
  const stamp = `${page.id} ${page.phase}`;
  if (form.dataset.stamp === stamp) return;
  if (form.dataset.rollout !== page.id) find("rollout-said").textContent = "";
  Object.assign(form.dataset, { stamp, rollout: page.id });
  const offered = Object.keys(ACTIONS).filter((name) => ACTIONS[name].includes(page.phase));
  fill(find("rollout-actions"), offered.map((name) => {
    const button = make("button", name);
    button.type = "button";
    button.dataset.action = name;
    return button;
  }));
  choose(offered.includes(chosen) ? chosen : "");
}

// An order takes two clicks: what, and yes.
export function choose(action) {
  chosen = action;
  for (const button of find("rollout-actions").children) {
    button.setAttribute("aria-pressed", `${button.dataset.action === action}`);
  }
  find("confirm-part").hidden = !action;
  find("confirm").textContent = `Yes, ${action}`;
  if (action) find("reason").focus();
}

export async function order() {
  const said = find("rollout-said");
  if (!chosen) return;
  const id = find("rollout-orders").dataset.rollout;
  const path = `/v1/rollouts/${encodeURIComponent(id)}/actions/${chosen}`;
  find("confirm").disabled = true;
  try {
    const page = await call(path, { reason: find("reason").value });
    said.textContent = `done: ${words(page.phase)}`;
    said.className = "";
    find("reason").value = "";
    choose("");
  } catch (error) {
    said.textContent = error.message;
    said.className = "failed";
  } finally {
    find("confirm").disabled = false;
  }
}

function showGuards(page, explained) {
  const told = new Map(explained.map((one) => [one.record.id, one]));
  const guards = page.verdicts.map((verdict) => guard(verdict, told.get(verdict.id)));
  const note = make("p", "No guard was asked yet.", "note");
  fill(find("rollout-guards"), guards.length ? guards : [note]);
}

function guard(verdict, why) {
  const item = make("div", undefined, "guard");
  const title = make("p");
  title.append(
    make("strong", verdict.verdict, VERDICTS[verdict.verdict]), make("span", verdict.guard),
    make("span", ` · wave ${verdict.wave + 1} · ${ago(verdict.at_s)}`, "note"),
  );
  const numbers = verdict.numbers.pairs === undefined ? exposure(verdict) : difference(verdict);
  item.append(title, make("p", verdict.reason), numbers);
  if (why) {
    const again = why.reached_again
      ? `reached again from the ${verdict.upto} stored rows`
      : "NOT reached again from the stored rows";
    item.append(make("p", again, why.reached_again ? "numbers" : "failed"));
    if (why.rows.length) item.append(evidence(why.rows));
  }
  return item;
}

// What the boxes that a verdict names did, in the order in which it became known.
function evidence(rows) {
  const boxes = new Map();
  for (const one of rows) {
    const event = words(`${one.data.event}`);
    const detail = one.data.detail ? ` (${words(`${one.data.detail}`)})` : "";
    boxes.set(one.box, [...(boxes.get(one.box) || []), `${event}${detail}`]);
  }
  const lines = [...boxes].map(([box, events]) => {
    const line = make("li");
    line.append(link(box, "box", box), ` ${events.join(", ")}`);
    return line;
  });
  const list = make("ul", undefined, "evidence");
  fill(list, lines);
  return list;
}

// Evidence grows by factors, so the bar is a share of the logarithm of what is needed.
function weight(name, evidence, needed, className) {
  const share = Math.min(1, Math.max(0, Math.log(Math.max(evidence, 1)) / Math.log(needed)));
  const found = evidence > 1000 ? "more than 1,000" : number(evidence, 1);
  return [bar([[name, share, className]], 1),
    make("p", `${name}: ${found} : 1 of ${number(needed, 0)} : 1 needed`, "numbers")];
}

function exposure({ numbers }) {
  const box = make("div");
  const parts = Object.entries(numbers.by_stratum).map(
    ([name, [exposed, harmed]]) => `${name} ${harmed} of ${exposed}`);
  box.append(...weight("evidence of harm", numbers.evidence, numbers.needed, "bad"));
  const harmed = parts.length ? `; harmed by hardware: ${parts.join(", ")}` : "";
  box.append(make("p", `limit ${percent(numbers.limit)} of boxes${harmed}`, "numbers"));
  return box;
}

function difference({ numbers }) {
  const box = make("div");
  box.append(
    ...weight("evidence of harm", numbers.evidence_harm, numbers.needed, "bad"),
    ...weight("evidence of no harm", numbers.evidence_safe, numbers.needed, "good"),
    make("p", `${numbers.pairs} pairs, ${numbers.unusable} not usable; effect ${number(numbers.effect, 4)}, spread ${number(numbers.spread, 4)}, tolerance ${numbers.tolerance}`, "numbers"),
  );
  return box;
}

function showHistory(history) {
  fill(find("rollout-history"), [...history].reverse().map((entry) => {
    const line = make("li");
    const gate = entry.gate ? `, gate ${entry.gate}` : "";
    line.append(
      make("span", words(entry.after), phaseClass(entry.after)),
      make("span", ` · wave ${entry.wave}${gate} · ${entry.actor}, ${ago(entry.at_s)}`, "note"),
      make("div", entry.reason),
    );
    return line;
  }));
}

function showBoxes(page) {
  const rows = page.items.map((one) => row([
    link(one.box, "box", one.box), { number: one.wave ? `${one.wave}` : "held back" },
    { text: words(one.status), className: LOST.includes(one.status) ? "bad" : "" },
    one.events.map(words).join(", ") || "–",
  ]));
  fill(find("rollout-boxes"), rows.length ? rows : nothing("Nobody takes part yet.", 4));
  const note = page.next ? `The first ${page.items.length}; the rest by /v1/rollouts/…/boxes.` : "";
  find("rollout-boxes-note").textContent = note;
}
