"use strict";
const data = JSON.parse(document.getElementById("months").textContent);
const cells = [...document.querySelectorAll("a.cell")];
const detail = document.getElementById("detail");
const search = document.getElementById("search");
const byId = new Map(cells.map((cell) => [cell.getAttribute("href").slice(1), cell]));

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function table(header, rows, numbers = []) {
  const box = make("div", undefined, { class: "wide" });
  const made = box.appendChild(make("table"));
  const head = made.appendChild(make("thead")).appendChild(make("tr"));
  header.forEach((name, index) => head.append(make("th", name, { scope: "col", class: numbers.includes(index) ? "number" : "" })));
  const body = made.appendChild(make("tbody"));
  for (const row of rows) {
    const line = body.appendChild(make("tr"));
    row.forEach((text, index) => {
      const cell = line.appendChild(make("td", text, { class: numbers.includes(index) ? "number" : "" }));
      if (header[index] === "Flow run" && text && data.runs_url) cell.replaceChildren(make("a", text, { href: data.runs_url + text }));
    });
  }
  return box;
}

function count(number) {
  return number.toLocaleString("en-US");
}

function show(id) {
  const month = data.months[id];
  cells.forEach((cell) => cell.removeAttribute("aria-current"));
  detail.replaceChildren();
  if (!month) return;
  byId.get(id).setAttribute("aria-current", "true");
  const close = make("button", "Back to the calendar (Escape)", { class: "close", type: "button" });
  close.addEventListener("click", back);
  detail.append(make("h2", id.replace("-", " ")), close, make("p", month.state));
  month.odd.forEach((line) => detail.append(make("p", line, { class: "warning" })));
  if (month.rows) {
    const [source, clean, rejected] = month.rows;
    detail.append(make("p", `${count(source)} rows in, ${count(clean)} clean, ${count(rejected)} quarantined (${(100 * rejected / Math.max(1, source)).toFixed(2)} %).`));
    const rules = month.rules.map(([name, severity, rows]) => [name, severity, count(rows), data.rules[id.split("-")[0]][name] || data.rules.any[name] || ""]);
    detail.append(make("h3", "Rules"), table(["Rule", "Severity", "Rows", "Why"], rules, [2]));
  }
  if (month.examples.length) {
    detail.append(make("h3", "Rows from quarantine"));
    for (const rule of new Set(month.examples.map(([rule]) => rule))) {
      const one = detail.appendChild(make("details"));
      one.append(make("summary", rule));
      for (const [, text] of month.examples.filter((each) => each[0] === rule)) {
        one.append(make("pre", Object.entries(JSON.parse(text)).map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") : value}`).join("\n")));
      }
    }
  }
  if (month.facts.length) detail.append(make("h3", "Source and files"), table(["What", "Value"], month.facts));
  if (month.drift.length) detail.append(make("p", `Columns unknown to the contract: ${month.drift.join(", ")}.`, { class: "warning" }));
  if (data.kinds.length) detail.append(make("h3", "Loads"), table(["Warehouse", "State", "Rows", "Loaded (UTC)", "Flow run"], month.loads.map(([kind, state, rows, ...rest]) => [kind, state || "not loaded", rows === null ? "" : count(rows), ...rest]), [2]));
  if (month.versions.length) detail.append(make("h3", "Versions"), table(["Version", "Published (UTC)", "Rows", "Bytes", "SHA-256 of the source"], month.versions.map(([version, since, rows, bytes, digest]) => [version, since, count(rows), count(bytes), digest]), [2, 3]));
  if (month.runs.length) detail.append(make("h3", "Runs"), table(["Step", "Flow run", "When (UTC)"], month.runs));
}

function back() {
  const current = byId.get(location.hash.slice(1));
  history.replaceState(null, "", location.pathname + location.search);
  show("");
  if (current) focus(current);
}

function focus(cell) {
  cells.forEach((each) => each.setAttribute("tabindex", "-1"));
  cell.setAttribute("tabindex", "0");
  cell.focus();
}

function open() {
  const id = location.hash.slice(1);
  show(id);
  if (data.months[id]) {
    cells.forEach((each) => each.setAttribute("tabindex", "-1"));
    byId.get(id).setAttribute("tabindex", "0");
    detail.focus();
    detail.scrollIntoView();
  }
}

function neighbour(cell, down, right) {
  const column = cell.closest("td").cellIndex;
  if (right) return cells[cells.indexOf(cell) + right];
  const rows = [...document.querySelectorAll(".calendar tbody tr")];
  for (let index = rows.indexOf(cell.closest("tr")) + down; rows[index]; index += down) {
    const found = rows[index].cells[column].querySelector("a.cell");
    if (found) return found;
  }
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const cell = event.target.closest("a.cell");
  if (cell && MOVES[event.key]) {
    event.preventDefault();
    const next = neighbour(cell, ...MOVES[event.key]);
    if (next) focus(next);
  } else if (event.key === "Escape" && data.months[location.hash.slice(1)]) {
    back();
  } else if (event.key === "/" && event.target !== search) {
    event.preventDefault();
    search.focus();
  }
});

search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const [id, cell] of byId) {
    const fits = words.every((word) => data.months[id].words.includes(word));
    cell.classList.toggle("dimmed", !fits);
    found += fits;
  }
  document.getElementById("found").textContent = words.length ? `${found} of ${byId.size} months` : "";
});
search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const first = cells.find((cell) => !cell.classList.contains("dimmed"));
  if (first) focus(first);
});

if (cells.length) (byId.get(location.hash.slice(1)) || cells[cells.length - 1]).setAttribute("tabindex", "0");
window.addEventListener("hashchange", open);
open();
