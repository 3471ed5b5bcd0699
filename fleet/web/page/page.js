import { hasToken, setToken, whoAmI } from "./api.js";
import { filterBoxes, loadBox, loadBoxes, moreBoxes, orderBox } from "./boxes.js";
import { loadCost } from "./cost.js";
import { find, setClock } from "./dom.js";
import { loadFleet } from "./fleet.js";
import { choose, loadRollout, loadRollouts, order } from "./rollouts.js";
import { loadTelemetry } from "./telemetry.js";

const POLL_MS = 3000;
const POLL_SUMS_MS = 60000; // adding up a week of hours costs the control host something
const VIEWS = {
  fleet: loadFleet, boxes: loadBoxes, box: loadBox,
  rollouts: loadRollouts, rollout: loadRollout, telemetry: loadTelemetry, cost: loadCost,
};
const SUMS = ["telemetry", "cost"];
const TABS = { box: "boxes", rollout: "rollouts" };
let timer = 0;
let round = 0;

function place() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  if (!Object.hasOwn(VIEWS, name)) return ["fleet"];
  try {
    return [name, ...rest.map(decodeURIComponent)];
  } catch {
    return ["fleet"];
  }
}

function showView(name) {
  for (const view of document.querySelectorAll("main")) view.hidden = view.dataset.view !== name;
  const tab = `#/${TABS[name] || name}`;
  for (const one of document.querySelectorAll("nav a")) {
    if (one.getAttribute("href") === tab) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
}

function say(text, isBad) {
  find("state").textContent = text;
  find("state").className = isBad ? "bad" : "";
}

function askForToken(text) {
  showView("");
  say(text, false);
  find("token-form").hidden = false;
  find("leave").hidden = true;
}

// A load gives what shows it; it is thrown away when something newer was asked for meanwhile.
async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  const mine = ++round;
  if (!hasToken()) {
    askForToken("a token is needed");
    return;
  }
  const [name, ...rest] = place();
  try {
    const me = await whoAmI();
    setClock(me.now_s);
    const show = await VIEWS[name](...rest);
    if (mine !== round) return;
    find("token-form").hidden = true;
    find("leave").hidden = false;
    say(`${me.name}, ${me.role}`, false);
    show();
    showView(name);
  } catch (error) {
    if (mine !== round) return;
    if (error.status === 401) {
      setToken("");
      askForToken("this token opens nothing");
      return;
    }
    say(`no answer: ${error.message}`, true);
  }
  timer = setTimeout(refresh, SUMS.includes(name) ? POLL_SUMS_MS : POLL_MS);
}

function onSubmit(id, work) {
  find(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    await work();
    refresh();
  });
}

onSubmit("token-form", () => {
  setToken(find("token").value);
  find("token").value = "";
});
onSubmit("box-filter", filterBoxes);
onSubmit("rollout-orders", order);
onSubmit("span-form", () => {});
onSubmit("cost-form", () => {});
onSubmit("box-orders", () => {});
for (const id of ["hours", "cost-hours", "cost-by", "cost-what"]) {
  find(id).addEventListener("change", refresh);
}
find("boxes-more").addEventListener("click", () => {
  moreBoxes();
  refresh();
});
find("rollout-actions").addEventListener("click", (event) => {
  if (event.target.dataset.action) choose(event.target.dataset.action);
});
find("box-orders").addEventListener("click", (event) => {
  if (event.target.dataset.order) orderBox(find("box-orders").dataset.box, event.target.dataset.order);
});
find("leave").addEventListener("click", () => {
  setToken("");
  refresh();
});
window.addEventListener("hashchange", refresh);
document.addEventListener("visibilitychange", refresh);
refresh();
