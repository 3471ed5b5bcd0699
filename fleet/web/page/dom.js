// Everything that comes from the control host goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
let ahead = 0;

export const find = (id) => document.getElementById(id);

export function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
}

export function fill(parent, nodes) {
  parent.replaceChildren(...nodes);
}

export function link(text, ...path) {
  const node = make("a", text);
  node.href = `#/${path.map(encodeURIComponent).join("/")}`;
  return node;
}

// A cell is text, {number: text}, {text, className}, or a node.
export function row(cells) {
  const line = make("tr");
  for (const cell of cells) {
    const item = make("td");
    if (cell instanceof Node) item.append(cell);
    else if (cell !== null && typeof cell === "object") {
      item.textContent = cell.number ?? cell.text;
      item.className = cell.number === undefined ? cell.className : "number";
    } else item.textContent = cell ?? "–";
    line.append(item);
  }
  return line;
}

export function nothing(text, columns) {
  const line = row([{ text, className: "note" }]);
  line.firstChild.colSpan = columns;
  return [line];
}

export function card(name, value) {
  const box = make("div");
  const shown = make("dd");
  if (value instanceof Node) shown.append(value);
  else shown.textContent = value ?? "–";
  box.append(make("dt", name), shown);
  return box;
}

export function drawn(tag, place, className) {
  const node = document.createElementNS(SVG, tag);
  Object.entries(place).forEach(([name, value]) => node.setAttribute(name, value));
  if (className) node.setAttribute("class", className);
  return node;
}

const rect = (place, className) => drawn("rect", place, className);

// Parts are [name, count, className]; the whole width stands for `whole`, or for their sum.
export function bar(parts, whole) {
  const sum = parts.reduce((total, [, count]) => total + count, 0);
  const scale = 600 / ((whole ?? sum) || 1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 600 14");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "bar");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", parts.map(([name, count]) => `${name} ${count}`).join(", "));
  let x = 0;
  for (const [, count, className] of parts) {
    if (count) svg.append(rect({ x, y: 0, width: count * scale, height: 14 }, className));
    x += count * scale;
  }
  return svg;
}

export function legend(parts) {
  const line = make("div", undefined, "legend");
  line.append(...parts.map(([name, count, className]) => make("span", `${name} ${count}`, className)));
  return line;
}

// `columns` are lists of [count, className], from the oldest.
export function chart(svg, columns) {
  const height = (column) => column.reduce((sum, [count]) => sum + count, 0);
  const highest = Math.max(1, ...columns.map(height));
  const width = 600 / Math.max(1, columns.length);
  const bars = [];
  columns.forEach((column, at) => {
    let top = 120;
    for (const [count, className] of column) {
      if (!count) continue;
      const tall = (count / highest) * 112;
      top -= tall;
      const gap = width > 4 ? 1 : 0;
      bars.push(rect({ x: at * width + gap, y: top, width: width - 2 * gap, height: tall }, className));
    }
  });
  fill(svg, bars);
}

// Times are told by the control host's clock: the browser's may be wrong.
export function setClock(nowS) {
  ahead = nowS - Date.now() / 1000;
}

export const nowS = () => Date.now() / 1000 + ahead;

export function ago(atS) {
  if (atS === null || atS === undefined) return "never";
  const seconds = Math.max(0, nowS() - atS);
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${Math.floor(seconds)} s ago`;
}

export const time = (atS) => `${new Date(atS * 1000).toISOString().slice(0, 16).replace("T", " ")}Z`;

const known = (value) => value !== null && value !== undefined;

export const short = (digest) => (digest ? digest.slice(0, 10) : "–");
export const percent = (share) => (known(share) ? `${(share * 100).toFixed(1)} %` : "–");
export const number = (value, digits = 1) => (known(value) ? value.toFixed(digits) : "–");
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : "–");

// Money is in the units of the price list; telemetry does not name its currency.
export function money(value) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  return value.toFixed(Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(value))))));
}

export const joules = (value) => {
  if (!known(value)) return "–";
  return value >= 1e6 ? `${(value / 3.6e6).toPrecision(3)} kWh` : `${Number(value.toPrecision(3))} J`;
};

export function bytes(value) {
  if (!known(value)) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${value} B`;
}

export const pairs = (values) =>
  Object.entries(values).map(([name, value]) => `${name}=${value}`).join(" ") || "–";
