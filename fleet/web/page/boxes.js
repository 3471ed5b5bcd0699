import { call, mayOperate, query } from "./api.js";
import {
  ago, bytes, card, count, fill, find, joules, link, make, money, nothing, number, pairs, percent,
  row, short, time,
} from "./dom.js";
import { stateClass, words } from "./fleet.js";

const HEALTH = { online: "good", silent: "warn", unreachable: "bad" };
const PAGE = 100;
const LOG_TRIES = 20;
const LOG_EVERY_MS = 1000;
let shown = PAGE;

// The whole list up to where it was read is asked for again, so that nothing on show is old.
export async function loadBoxes() {
  const filter = { where: find("where").value.trim(), health: find("health").value };
  const boxes = [];
  let after = "";
  let more = true;
  try {
    while (more && boxes.length < shown) {
      const limit = shown - boxes.length;
      const page = await call(query("/v1/boxes", { ...filter, limit, after }));
      boxes.push(...page.items);
      after = page.next || "";
      more = page.next !== null;
    }
  } catch (error) {
    if (error.status !== 400) throw error;
    return () => showBoxes([], false, error.message);
  }
  return () => showBoxes(boxes, more, "");
}

function showBoxes(boxes, more, trouble) {
  find("boxes-error").textContent = trouble;
  const rows = boxes.map((box) => row([
    link(box.principal, "box", box.principal),
    { text: box.health, className: HEALTH[box.health] },
    ago(box.last_contact_s),
    pairs(box.labels),
    serves(box.items),
    { number: generations(box) },
  ]));
  fill(find("boxes-rows"), rows.length ? rows : nothing("No box.", 6));
  find("boxes-more").hidden = !more;
}

function serves(items) {
  if (!items.length) return "–";
  const cell = make("span");
  items.forEach((item, at) => {
    if (at) cell.append(", ");
    const text = `${item.name} ${item.version || short(item.active)} ${words(item.state)}`;
    cell.append(make("span", text, stateClass(item.state)));
  });
  return cell;
}

// What the box has stored, of what was made for it.
const generations = (box) => `${box.seen_generation} of ${box.generation}`;

export function moreBoxes() {
  shown += PAGE;
}

export function filterBoxes() {
  shown = PAGE;
}

export async function loadBox(principal) {
  const path = `/v1/boxes/${encodeURIComponent(principal)}`;
  const [box, hours] = await Promise.all([call(path), call(`${path}/telemetry?hours=24`)]);
  return () => {
    find("box-title").textContent = box.principal;
    find("box-orders").hidden = !mayOperate();
    if (find("box-orders").dataset.box !== principal) {
      find("box-orders").dataset.box = principal;
      find("box-said").textContent = "";
      find("box-log").hidden = true;
    }
    showCards(box);
    showItems(box);
    showFacts(box);
    showHours(hours.items);
  };
}

function showCards(box) {
  fill(find("box-cards"), [
    card("health", make("span", box.health, HEALTH[box.health])),
    card("status", box.status),
    card("last heard", ago(box.last_contact_s)),
    card("generation stored", generations(box)),
    card("enrolled", ago(box.created_s)),
    card("clock behind ours", box.clock_offset_s === null ? "–" : `${box.clock_offset_s} s`),
  ]);
}

function showItems(box) {
  const reported = new Map(
    (box.reported ? box.reported.items : []).map((one) => [`${one.kind}/${one.name}`, one]),
  );
  const rows = box.items.map((item) => {
    const said = reported.get(`${item.kind}/${item.name}`) || {};
    return row([
      item.kind, item.name, item.version,
      { text: words(item.state), className: stateClass(item.state) },
      ago(item.since_s), short(item.active), { number: `${item.generation}` },
      item.rollout ? link(item.rollout, "rollout", item.rollout) : "–",
      { number: fetched(item, said) },
      { text: trouble(item, said), className: item.failure_kind ? "bad" : "" },
    ]);
  });
  fill(find("box-items"), rows.length ? rows : nothing("It has reported nothing yet.", 10));
}

// Going back to what is still on the disk fetches nothing.
function fetched(item, said) {
  if (!said.bytes_total || item.state === "confirmed") return "–";
  return `${bytes(said.bytes_done)} of ${bytes(said.bytes_total)}`;
}

function trouble(item, said) {
  if (item.failure_kind) {
    const why = said.failure && said.failure.reason ? `: ${said.failure.reason}` : "";
    return `${words(item.failure_kind)}, ${words(item.failure_code)}${why}`;
  }
  if (said.defer) return `deferred: ${words(said.defer)}`;
  return "–";
}

function showFacts(box) {
  const facts = [["labels", pairs(box.labels)], ["shard", `${box.shard}`]];
  if (box.reported) {
    const { hardware, versions, spool } = box.reported;
    facts.push(
      ["processor", `${hardware.arch}, ${hardware.cores} cores ${hardware.cpu_model}`.trim()],
      ["features", hardware.cpu_features.join(" ") || "–"],
      ["memory", bytes(hardware.memory_bytes)],
      ["disk free", bytes(box.reported.disk_free_bytes)],
      ["metered link", box.reported.metered ? "yes" : "no"],
      ["daemon", versions.daemon],
      ["onnxruntime", versions.onnxruntime || "–"],
      ["system", versions.os || "–"],
      ["crashes", `${box.reported.crashes}`],
      ["spooled telemetry", `${spool.rows} rows, ${spool.evicted_rows} thrown away`],
    );
  }
  fill(find("box-facts"), facts.map(([name, value]) => card(name, value)));
}

// An hour has one line of the box itself and one of each model; questions are the box's own.
function showHours(hours) {
  const rows = hours.filter((hour) => hour.model_digest === "").map(({ hour_s, figures }) => row([
    time(hour_s),
    { number: count(figures.requests) },
    { number: percent(figures.escalation_rate) },
    { number: percent(figures.cache_hit_rate) },
    { number: figures.p95_s === undefined ? "–" : `${number(figures.p95_s, 2)} s` },
    { number: money(figures.cost) },
    { number: joules(figures.joules) },
  ]));
  fill(find("box-hours"), rows.length ? rows : nothing("Nothing was heard.", 7));
}

export async function orderBox(principal, order) {
  const said = find("box-said");
  const path = `/v1/boxes/${encodeURIComponent(principal)}`;
  const here = () => find("box-orders").dataset.box === principal;
  try {
    const sent = await call(`${path}/orders`, { order });
    said.textContent = "sent; a box that is not connected does not hear it";
    if (order !== "log") return;
    for (let tries = 0; tries < LOG_TRIES && here(); tries += 1) {
      const log = await call(`${path}/logs/${encodeURIComponent(sent.id)}`);
      if (!here()) return;
      find("box-log").textContent = log.lines.join("\n");
      find("box-log").hidden = !log.lines.length;
      if (log.complete) {
        said.textContent = `${log.lines.length} lines`;
        return;
      }
      await new Promise((done) => setTimeout(done, LOG_EVERY_MS));
    }
    if (here()) said.textContent = "the log did not come, or not all of it";
  } catch (error) {
    if (here()) said.textContent = error.message;
  }
}
