// The table of streams. Only the visible rows exist, so thousands of streams cost as little as forty.

import * as numbers from "./numbers.js";
import { isStale, rateNow } from "./streams.js";

const COLUMNS = [
  ["name", "Stream"], ["average", "Average"], ["latest", "Latest"], ["count", "Count"], ["rate", "Per second"], ["last", "Last reading"],
  ["minimum", "Minimum"], ["maximum", "Maximum"], ["deviation", "Deviation"],
];
const BEYOND = 8; // Extra rows above and below the visible ones.
const FIRST_DESCENDING = new Set(["count", "rate", "last"]);

const table = document.getElementById("streams");
const body = document.getElementById("rows");

export class Table {
  constructor(changed) {
    this.column = "name";
    this.descending = false;
    this.streams = [];
    this.rows = new Map();
    this.above = spacer();
    this.below = spacer();
    body.append(this.above, this.below);
    this.headers = COLUMNS.map(([column, title]) => {
      const header = document.createElement("th");
      const button = document.createElement("button");
      header.scope = "col";
      header.className = `c-${column} w-${column}`;
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        this.descending = this.column === column ? !this.descending : FIRST_DESCENDING.has(column);
        this.column = column;
        changed();
      });
      header.append(button);
      document.getElementById("columns").append(header);
      return [column, header];
    });
    const redraw = () => this.draw();
    addEventListener("scroll", redraw, { passive: true });
    addEventListener("resize", redraw);
    table.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Shows these streams, in this order, as of `now`. */
  show(streams, now) {
    this.streams = streams;
    this.now = now;
    table.setAttribute("aria-rowcount", streams.length + 1);
    for (const [column, header] of this.headers) {
      if (column !== this.column) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    }
    this.draw();
  }

  /** Draws the visible rows. */
  draw() {
    if (table.closest("[hidden]") !== null) return;
    this.height = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--row"), 10);
    const top = -body.getBoundingClientRect().top;
    const count = this.streams.length;
    const start = Math.max(0, Math.min(count, Math.floor(top / this.height) - BEYOND));
    const end = Math.min(count, Math.ceil((top + innerHeight) / this.height) + BEYOND);
    const rows = new Map();
    let before = this.above;
    for (let place = start; place < end; place++) {
      const stream = this.streams[place];
      const row = this.rows.get(stream.name) ?? newRow(stream.name);
      rows.set(stream.name, row);
      fill(row, stream, this.now, place);
      if (before.nextSibling !== row) before.after(row);
      before = row;
    }
    for (const [name, row] of this.rows) if (!rows.has(name)) row.remove();
    this.rows = rows;
    this.above.style.height = `${start * this.height}px`;
    this.below.style.height = `${Math.max(0, count - end) * this.height}px`;
    this.above.hidden = start === 0;
    this.below.hidden = end >= count;
  }

  /** Moves the focus to a row and scrolls to it if necessary. */
  focus(place) {
    const stream = this.streams[Math.max(0, Math.min(this.streams.length - 1, place))];
    if (stream === undefined) return;
    const y = body.getBoundingClientRect().top + this.streams.indexOf(stream) * this.height;
    const head = table.tHead.getBoundingClientRect().height;
    if (y < head) scrollBy(0, y - head - this.height);
    else if (y + 2 * this.height > innerHeight) scrollBy(0, y + 2 * this.height - innerHeight);
    this.draw();
    this.rows.get(stream.name)?.querySelector("a").focus({ preventScroll: true });
  }

  #move(event) {
    const name = event.target.closest("tr")?.dataset.name;
    const place = this.streams.findIndex((stream) => stream.name === name);
    const page = Math.max(1, Math.floor(innerHeight / this.height) - 3);
    const to = {
      ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + page, PageUp: place - page,
      Home: 0, End: this.streams.length - 1,
    }[event.key];
    if (place < 0 || to === undefined) return;
    event.preventDefault();
    this.focus(to);
  }
}

function spacer() {
  const row = document.createElement("tr");
  row.setAttribute("aria-hidden", "true");
  row.append(document.createElement("td"));
  row.firstChild.colSpan = COLUMNS.length;
  row.hidden = true;
  return row;
}

function newRow(name) {
  const row = document.createElement("tr");
  row.className = "row";
  row.dataset.name = name;
  for (const [column] of COLUMNS) {
    const cell = document.createElement("td");
    cell.className = `c-${column} ${column}`;
    row.append(cell);
  }
  const link = document.createElement("a");
  link.href = `#/${name}`;
  link.title = name;
  link.append(...nameParts(name));
  row.cells[0].append(link);
  row.cells[2].append(span("now"), span("since"));
  row.cells[5].append(span("clock dim"), " ", span("age"));
  return row;
}

/** A name as nodes, with the path before its last segment dimmed. */
export function nameParts(name) {
  const cut = name.lastIndexOf("/") + 1;
  const path = span("path");
  path.textContent = name.slice(0, cut);
  return cut ? [path, name.slice(cut)] : [name];
}

function span(className) {
  const node = document.createElement("span");
  node.className = className;
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function fill(row, stream, now, place) {
  const { state } = stream;
  const seconds = (now - stream.last) / 1000;
  const stale = isStale(stream, now);
  row.setAttribute("aria-rowindex", place + 2);
  row.classList.toggle("stale", stale);
  row.classList.toggle("fresh", seconds < 2.5 && seconds > -5);
  value(row.cells[1], row.cells[1], state.average);
  const [latest, since] = row.cells[2].children; // A phone has no room for the column of the last reading.
  value(row.cells[2], latest, state.latest);
  write(row.cells[3], numbers.whole(state.count));
  write(row.cells[4], numbers.rate(rateNow(stream, now)));
  const [clock, age] = row.cells[5].children;
  write(clock, seconds < 86_400 ? numbers.timeOfDay(stream.last) : "");
  write(age, (stale ? "quiet " : "") + numbers.age(seconds));
  write(since, age.textContent);
  row.cells[5].title = numbers.fullTime(stream.last);
  const isMany = typeof state.average === "object"; // For several components, only the detail view shows these.
  write(row.cells[6], isMany ? "" : numbers.short(state.minimum));
  write(row.cells[7], isMany ? "" : numbers.short(state.maximum));
  write(row.cells[8], isMany ? "" : numbers.short(state.standard_deviation));
}

/** Writes a value into a node of a cell: a number, or as many components as fit. */
function value(cell, node, content) {
  const isMany = typeof content === "object" && content !== null;
  cell.classList.toggle("many", isMany);
  write(node, isMany ? brief(content) : numbers.short(content));
  cell.title = isMany ? node.textContent : "";
}

function brief(content) {
  if (typeof content === "number") return numbers.brief(content);
  if (!Array.isArray(content)) return Object.entries(content).map(([name, part]) => `${name} ${brief(part)}`).join(", ");
  const some = content.slice(0, 4).map(numbers.brief).join(", ");
  return `[${some}${content.length > 4 ? `, … ${content.length}` : ""}]`;
}
