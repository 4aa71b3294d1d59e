"use strict";
const byId = (id) => document.getElementById(id);
const queries = JSON.parse(byId("queries").textContent);
const chosen = { from: "", to: "", zone: "", shade: "trips" };
const NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const DAY = 86400000;
// A mean of fewer trips says little about a zone.
const FEWEST = 10;
const SHOW = {
  revenue: (value) => `$${fixed(value, 2)}`, tip: (value) => `$${fixed(value, 2)}`, miles: (value) => `${fixed(value, 2)} mi`,
  minutes: (value) => `${fixed(value, 1)} min`, mph: (value) => `${fixed(value, 1)} mph`,
};
let data, months, zones;

// Numbers and elements

const fixed = (value, digits = 0) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const start = (month) => Date.UTC(+month.slice(0, 4), +month.slice(5) - 1);

function shorten(value) {
  for (const [limit, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= limit) return (value / limit).toFixed(value / limit >= 100 || value % limit === 0 ? 0 : 1) + unit;
  }
  return Number.isInteger(value) ? `${value}` : value.toFixed(1);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function table(header, rows, numbers = []) {
  const kind = (index) => (numbers.includes(index) ? { class: "number" } : {});
  return make("table", {},
    make("thead", {}, make("tr", {}, ...header.map((text, index) => make("th", { scope: "col", ...kind(index) }, text)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text, index) => make("td", kind(index), text))))));
}
const shareCell = (share, most) => make("div", {}, percent(share), make("span", { class: "share", style: `width: ${percent(share / most)}` }));

// What is chosen

function sum(list, zone = "") {
  const figures = Object.keys(data.figures);
  const total = { trips: 0, ...Object.fromEntries(figures.map((name) => [name, { sum: 0, trips: 0, left: 0 }])) };
  for (const month of list) {
    const rows = data.months[month].zones;
    for (const row of zone ? [rows[zone]] : Object.values(rows)) {
      if (!row) continue;
      total.trips += row[0];
      figures.forEach((name, index) => {
        ["sum", "trips", "left"].forEach((part, place) => { total[name][part] += row[1 + 3 * index + place]; });
      });
    }
  }
  return total;
}

// The months of the distributions: of a zone only the newest are known.
const detailed = () => months.filter((month) => !chosen.zone || data.by_zone.includes(month));

function count(part) {
  const counts = data.keys[part].map(() => 0);
  for (const month of detailed()) {
    const found = data.months[month].parts[part] || {};
    for (const list of chosen.zone ? [found[chosen.zone] || []] : Object.values(found)) {
      for (let place = 0; place < list.length; place += 2) counts[list[place]] += list[place + 1];
    }
  }
  return counts;
}

const dayCount = (list) => list.reduce((days, month) => days + data.months[month].days.length, 0);
const zoneName = (zone) => (data.zones[zone] ? `${data.zones[zone][0]} (${data.zones[zone][1]})` : "Not given");

// Charts

const HEIGHT = 230, LEFT = 52, TOP = 14, BOTTOM = 28;
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

function roundUp(value) {
  for (let power = 1; ; power *= 10) {
    const fits = [4, 8, 12, 20].find((factor) => factor * power >= value);
    if (fits) return fits * power;
  }
}
const widthOf = (box) => Math.max(280, box.clientWidth);

function frame(box, title, top, right, ticks) {
  const width = widthOf(box), y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * Math.max(0, value)) / top;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": title });
  for (let part = 0; part < 5; part += 1) {
    const value = (top * part) / 4;
    svg.append(draw("line", { class: "rule", x1: LEFT, x2: width - right, y1: y(value), y2: y(value) }),
      draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, shorten(value)));
  }
  let free = -Infinity;
  for (const [x, text] of ticks) {
    const half = text.length * 3.6 + 4;
    if (x - half < free || x + half > width) continue;
    svg.append(draw("text", { x, y: HEIGHT - 8, "text-anchor": "middle" }, text));
    free = x + half;
  }
  box.replaceChildren(svg);
  return { svg, y };
}

// A series is a label and points [place, value, title]; null is a gap. The most important is the last.
function drawLines(box, title, places, series, ticks, labelled) {
  const right = labelled ? 48 : 16, step = (widthOf(box) - LEFT - right) / Math.max(1, places - 1);
  const x = (place) => LEFT + place * step;
  const top = roundUp(Math.max(0, ...series.flatMap(([, points]) => points.map((point) => (point ? point[1] : 0)))));
  const { svg, y } = frame(box, title, top, right, ticks.map(([place, text]) => [x(place), text]));
  const taken = [];
  series.reverse().forEach(([label, points], index) => {
    let path = "", down = false;
    points.forEach((point, place) => {
      if (point) path += `${down ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`;
      // A point between two gaps would not be drawn.
      if (point && !down && !points[place + 1]) path += "h.1";
      down = Boolean(point);
    });
    svg.append(draw("path", { class: `line line${index}`, d: path, "stroke-dasharray": DASHES[index] }));
    const known = points.filter(Boolean);
    known.filter((point) => point[2]).forEach((point) => svg.append(
      draw("circle", { class: `dot line${index}`, cx: x(point[0]), cy: y(point[1]), r: 3.5 }, draw("title", {}, point[2]))));
    if (labelled && known.length) {
      const last = known[known.length - 1];
      let height = y(last[1]);
      while (taken.some(([place, other]) => Math.abs(place - last[0]) * step < 40 && Math.abs(height - other) < 12)) height += 4;
      taken.push([last[0], height]);
      svg.append(draw("text", { class: "label", x: x(last[0]) + 8, y: height + 4 }, label));
    }
  });
}

function drawBars(box, title, labels, values) {
  const step = (widthOf(box) - LEFT - 8) / labels.length, middle = (index) => LEFT + (index + 0.5) * step;
  const { svg, y } = frame(box, title, roundUp(Math.max(0, ...values)), 8, labels.map((label, index) => [middle(index), label]));
  values.forEach((value, index) => svg.append(draw("rect", {
    class: "bar", x: LEFT + index * step + 1, y: y(value), width: Math.max(1, step - 2), height: HEIGHT - BOTTOM - y(value),
  }, draw("title", {}, `${labels[index]}: ${fixed(value)} trips`))));
}

// The parts of the page

function showCards() {
  const total = sum(months, chosen.zone), days = dayCount(months);
  const cards = [
    ["Months", `${months.length}`, `${months[0]} to ${months[months.length - 1]}`],
    ["Trips", shorten(total.trips), fixed(total.trips)],
    ["Trips a day", shorten(total.trips / days), `over ${fixed(days)} days`],
  ];
  for (const [name, title] of Object.entries(data.figures)) {
    const { sum: all, trips, left } = total[name];
    if (trips) cards.push([`${title}, average`, SHOW[name](all / trips), `${name === "mph" ? "" : `${SHOW[name](0).replace(/0[.0]*/, shorten(all))} in all, `}${fixed(left)} trips left out`]);
  }
  byId("cards").replaceChildren(...cards.map(([label, value, note]) => make("li", {}, label, make("b", {}, value), make("span", { class: "faint" }, note))));
  const left = Object.entries(data.figures).map(([name, title]) => `${fixed(total[name].left)} (${title.toLowerCase()})`);
  byId("left-out").textContent = `Left out in what is chosen, trips: ${left.join(", ")}.`;
}

function showDays() {
  const first = start(months[0]), series = [], ticks = [];
  let spill = 0;
  const place = (month) => Math.round((start(month) - first) / DAY);
  for (const month of months) {
    const { days, spill: other } = data.months[month], at = place(month);
    const mean = sum([month], chosen.zone).trips / days.length;
    const values = chosen.zone ? days.map(() => mean) : days;
    values.forEach((value, index) => { series[at + index] = value ? [at + index, value] : null; });
    spill += other;
  }
  const last = months[months.length - 1], places = place(last) + data.months[last].days.length;
  const years = places > 3 * 366;
  for (let year = +months[0].slice(0, 4), number = 0; ; number += 1) {
    const month = `${year + Math.floor(number / 12)}-${String(1 + (number % 12)).padStart(2, "0")}`;
    if (month > last) break;
    if (month >= months[0] && (!years || number % 12 === 0)) ticks.push([place(month), years ? month.slice(0, 4) : month]);
  }
  drawLines(byId("days"), "Trips a day", places, [["", Array.from(series)]], ticks, false);
  byId("days-title").textContent = chosen.zone ? "Trips a day, average of each month" : "Trips a day";
  byId("days-note").textContent = `${chosen.zone ? "A gap is a month" : "By pick-up day. A gap is a day without a trip, or a month"} that is not in the lake.${spill && !chosen.zone ? ` Left out: ${fixed(spill)} trips that began on a day outside their file's month.` : ""}`;
  const names = Object.keys(data.figures);
  byId("month-numbers").replaceChildren(table(
    ["Month", "Trips", "Trips a day", ...names.flatMap((name) => [data.figures[name], "Left out"])],
    [...months].reverse().map((month) => {
      const total = sum([month], chosen.zone);
      const cells = names.flatMap((name) => [total[name].trips ? SHOW[name](total[name].sum / total[name].trips) : "", fixed(total[name].left)]);
      return [month, fixed(total.trips), fixed(total.trips / data.months[month].days.length), ...cells];
    }), [1, 2, ...names.flatMap((_, index) => [3 + 2 * index, 4 + 2 * index])]));
}

function showYears() {
  const perDay = Object.fromEntries(months.map((month) => [month, sum([month], chosen.zone).trips / data.months[month].days.length]));
  const years = [...new Set(months.map((month) => month.slice(0, 4)))];
  const of = (year, index) => perDay[`${year}-${String(index + 1).padStart(2, "0")}`];
  drawLines(byId("years"), "Trips a day, month by month", 12, years.slice(-4).map((year) => [year, NAMES.map((name, index) => {
    const value = of(year, index);
    return value === undefined ? null : [index, value, `${name} ${year}: ${fixed(value)}`];
  })]), NAMES.map((name, index) => [index, name]), true);
  byId("years-numbers").replaceChildren(table(["Year", ...NAMES], [...years].reverse().map((year) => [year, ...NAMES.map((_, index) => {
    const value = of(year, index), before = of(year - 1, index);
    if (value === undefined) return "";
    const change = before ? `${value >= before ? "+" : ""}${percent(value / before - 1, 0)}` : "";
    return make("span", {}, fixed(value), make("br"), make("span", { class: "faint" }, change));
  })]), NAMES.map((_, index) => index + 1)));
}

function showWeek() {
  const counts = count("hour"), weekdays = WEEKDAYS.map(() => 0);
  for (const month of detailed()) {
    data.months[month].days.forEach((_, index) => { weekdays[(new Date(start(month) + index * DAY).getUTCDay() + 6) % 7] += 1; });
  }
  const means = counts.map((value, index) => value / (weekdays[Math.floor(index / 24)] || 1));
  const top = Math.max(...means) || 1;
  // From 0 to 0.3, then from 0.8 to 1: text can't be read well on a colour between.
  const shade = (value) => (value >= 0.6 * top ? (value / top + 1) / 2 : value / top / 2);
  byId("hour").replaceChildren(make("table", { class: "heat" }, make("caption", {}, "Trips an hour, on average"),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "faint" }, "Hour"), ...Array.from({ length: 24 }, (_, hour) => make("th", { scope: "col" }, `${hour}`)))),
    make("tbody", {}, ...WEEKDAYS.map((name, day) => make("tr", {}, make("th", { scope: "row" }, name), ...means.slice(24 * day, 24 * day + 24).map((value, hour) =>
      make("td", { class: value >= 0.6 * top ? "strong" : "", style: `background: rgb(var(--heat) / ${shade(value).toFixed(2)})`, title: `${fixed(counts[24 * day + hour])} trips` },
        top < 100 ? value.toFixed(1) : top < 10000 ? fixed(value) : shorten(value))))))));
}

function showHistograms() {
  for (const [part, { title, unit, width }] of Object.entries(data.histograms)) {
    const rows = data.keys[part].map((key, index) => [key, count(part)[index]]).filter(([key, trips]) => key !== "unknown" && (key !== "<0" || trips));
    const total = rows.reduce((all, [, trips]) => all + trips, 0) || 1;
    drawBars(byId(part), `${title}, ${unit}`, rows.map(([key]) => key), rows.map(([, trips]) => trips));
    byId(`${part}-numbers`).replaceChildren(table([unit[0].toUpperCase() + unit.slice(1), "Trips", "Share"],
      rows.map(([key, trips]) => [/^\d+$/.test(key) ? `${key} to ${+key + width}` : key, fixed(trips), percent(trips / total)]), [1, 2]));
  }
  for (const [part, names] of Object.entries(data.codes)) {
    const counts = count(part), total = counts.reduce((all, trips) => all + trips, 0) || 1;
    const rows = data.keys[part].map((key, index) => [key, counts[index]]).filter(([, trips]) => trips).sort((a, b) => b[1] - a[1]);
    byId(part).replaceChildren(table(["Code", "Meaning", "Trips", "Share"],
      rows.map(([key, trips]) => [key === "unknown" ? "" : key, names[key], fixed(trips), shareCell(trips / total, rows[0][1] / total)]), [2]));
  }
  const known = detailed(), all = known.length === months.length;
  const text = known.length ? `Of one zone, this is known of the months ${known[0]} to ${known[known.length - 1]} only.` : "Of one zone, this is known of newer months only.";
  document.querySelectorAll(".by-zone").forEach((each) => { each.textContent = all ? "" : text; });
}

function showZones() {
  const rows = Object.keys(data.zones).map((zone) => [zone, sum(months, zone)]).filter(([, total]) => total.trips).sort((a, b) => b[1].trips - a[1].trips);
  const all = sum(months).trips || 1;
  byId("zones").replaceChildren(rows.length ? table(["#", "Zone", "Borough", "Trips", "Share"], rows.slice(0, 20).map(([zone, total], index) => {
    const button = make("button", { type: "button", class: "plain", "aria-pressed": zone === chosen.zone }, data.zones[zone][0]);
    button.addEventListener("click", () => chooseZone(zone));
    return [`${index + 1}`, button, data.zones[zone][1], fixed(total.trips), shareCell(total.trips / all, rows[0][1].trips / all)];
  }), [0, 3]) : "No trip of these months names its zone.");
}

// The map

const SHADES = { trips: "Pick-ups", dropoffs: "Drop-offs", tip: "Tip, average", miles: "Distance, average" };

function shadeOf(zone) {
  if (chosen.shade === "dropoffs") return months.reduce((all, month) => all + (data.months[month].dropoffs[zone] || 0), 0) || null;
  const total = sum(months, zone);
  if (chosen.shade === "trips") return total.trips || null;
  const { sum: all, trips } = total[chosen.shade];
  return trips >= FEWEST ? all / trips : null;
}

function makeMap() {
  const left = -7426000, bottom = 4049000, wide = 57000, high = 43000, narrow = 0.758;
  const paths = Object.entries(data.shapes).map(([zone, path]) => draw("path", {
    d: path.replace(/M(-?\d+) (-?\d+)/g, (_, x, y) => `M${x - left} ${y - bottom}`), "data-zone": zone, role: "button", tabindex: -1,
  }));
  const map = draw("svg", { id: "zones-map", viewBox: `0 ${-high} ${wide * narrow} ${high}`, role: "group", "aria-label": "Map of the taxi zones" },
    draw("g", { transform: `scale(${narrow} -1)` }, ...paths));
  byId("map").replaceChildren(map);
  zones = Object.fromEntries(paths.map((path) => {
    const box = path.getBBox();
    return [path.dataset.zone, { path, x: narrow * (box.x + box.width / 2), y: -box.y - box.height / 2 }];
  }));
  const point = (event) => { if (event.target.dataset.zone) byId("pointed").textContent = event.target.getAttribute("aria-label"); };
  map.addEventListener("pointerover", point);
  map.addEventListener("focusin", point);
  map.addEventListener("click", (event) => { if (event.target.dataset.zone) chooseZone(event.target.dataset.zone); });
  map.addEventListener("keydown", (event) => {
    const zone = event.target.dataset.zone, way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (zone && (event.key === "Enter" || event.key === " ")) chooseZone(zone);
    else if (zone && way) focusZone(neighbour(zone, way));
    else return;
    event.preventDefault();
  });
}

// The nearest zone in a direction; what is aside counts double.
function neighbour(zone, [right, down]) {
  const here = zones[zone];
  let best = zone, least = Infinity;
  for (const [other, { x, y }] of Object.entries(zones)) {
    const ahead = (x - here.x) * right + (y - here.y) * down, aside = Math.abs((x - here.x) * down) + Math.abs((y - here.y) * right);
    if (other !== zone && ahead > aside / 2 && ahead + 2 * aside < least) [best, least] = [other, ahead + 2 * aside];
  }
  return best;
}

function focusZone(zone) {
  Object.values(zones).forEach(({ path }) => path.setAttribute("tabindex", -1));
  zones[zone].path.setAttribute("tabindex", 0);
  zones[zone].path.focus();
}

function showMap() {
  const name = SHADES[chosen.shade], show = SHOW[chosen.shade] || fixed;
  const values = Object.fromEntries(Object.keys(zones).map((zone) => [zone, shadeOf(zone)]));
  const sorted = Object.values(values).filter((value) => value !== null).sort((a, b) => a - b);
  const limits = [0.2, 0.4, 0.6, 0.8].map((share) => sorted[Math.floor(share * sorted.length)]);
  for (const [zone, { path }] of Object.entries(zones)) {
    const value = values[zone], level = value === null ? "none" : limits.filter((limit) => value >= limit).length;
    path.setAttribute("class", `level-${level}${zone === chosen.zone ? " chosen" : ""}`);
    path.setAttribute("aria-pressed", zone === chosen.zone);
    path.setAttribute("aria-label", `${zoneName(zone)}: ${value === null ? "no figure" : `${name} ${show(value)}`}`);
  }
  const steps = sorted.length ? [sorted[0], ...limits, sorted[sorted.length - 1]] : [];
  byId("legend").replaceChildren(
    ...steps.slice(0, -1).map((from, level) => make("li", {}, make("span", { class: `swatch level-${level}` }), `${show(from)} to ${show(steps[level + 1])}`)),
    make("li", {}, make("span", { class: "swatch level-none" }), SHOW[chosen.shade] ? `fewer than ${FEWEST} such trips` : "none"));
}

// Choosing

function showSql() {
  const between = (list) => `file_month BETWEEN DATE '${list[0]}-01' AND DATE '${list[list.length - 1]}-01'`;
  document.querySelectorAll("[data-sql]").forEach((each) => {
    const part = each.dataset.sql, wide = ["zone", "dropoff"].includes(part);
    const list = part in data.keys && detailed().length ? detailed() : months;
    const query = part === "day" && chosen.zone ? queries.month : queries[part];
    each.textContent = query.replace("{where}", between(list) + (chosen.zone && !wide ? ` AND coalesce(pickup_location_id, 0) = ${chosen.zone}` : ""));
  });
}

function show() {
  months = Object.keys(data.months).filter((month) => chosen.from <= month && month <= chosen.to);
  for (const name of ["from", "to", "zone", "shade"]) byId(name).value = chosen[name];
  byId("shown").textContent = `Shown: ${months[0]} to ${months[months.length - 1]}, ${chosen.zone ? zoneName(chosen.zone) : "all zones"}.`;
  showCards(); showDays(); showYears(); showWeek(); showHistograms(); showZones(); showMap(); showSql();
  makeReachable();
}

// With the keyboard, only what has the focus can be scrolled.
function makeReachable() {
  document.querySelectorAll(".wide").forEach((each) => each.toggleAttribute("tabindex", each.scrollWidth > each.clientWidth));
  document.querySelectorAll(".wide[tabindex]").forEach((each) => each.setAttribute("tabindex", 0));
}

function chooseZone(zone) {
  chosen.zone = zone === chosen.zone ? "" : zone;
  show();
}

function open() {
  const all = Object.keys(data.months), option = (value, text = value) => make("option", { value }, text);
  const reset = () => Object.assign(chosen, { from: all[0], to: all[all.length - 1], zone: "" });
  byId("from").append(...all.map((month) => option(month)));
  byId("to").append(...all.map((month) => option(month)));
  byId("zone").append(option("", "All zones"), ...Object.keys(data.zones).sort((a, b) => zoneName(a).localeCompare(zoneName(b))).map((zone) => option(zone, zoneName(zone))));
  byId("shade").append(...Object.entries(SHADES).filter(([name]) => name in data.figures || ["trips", "dropoffs"].includes(name)).map(([name, text]) => option(name, text)));
  for (const name of ["from", "to", "zone", "shade"]) {
    byId(name).addEventListener("change", () => {
      chosen[name] = byId(name).value;
      if (chosen.from > chosen.to) chosen[name === "from" ? "to" : "from"] = chosen[name];
      show();
    });
  }
  byId("reset").addEventListener("click", () => { reset(); show(); });
  addEventListener("resize", show);
  document.addEventListener("toggle", makeReachable, true);
  makeMap();
  reset();
  show();
  zones[Object.keys(zones)[0]].path.setAttribute("tabindex", 0);
  document.body.dataset.ready = "yes";
}

const bytes = Uint8Array.from(atob(byId("data").textContent), (letter) => letter.charCodeAt(0));
new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json().then((read) => { data = read; open(); });
