// The view of one stream: its average, its other values, and a live chart.

import { Chart, History } from "./chart.js";
import * as numbers from "./numbers.js";
import { curlToFollow, curlToPost, curlToRead, sends } from "./post.js";
import { isStale, rateNow } from "./streams.js";
import { nameParts } from "./table.js";

const MOST_KEPT = 20; // Histories of streams that were opened.
const byId = (id) => document.getElementById(id);

export class Detail {
  constructor() {
    this.histories = new Map();
    this.chart = new Chart(byId("chart"));
    this.facts = new Map();
    for (const title of ["Latest", "Count", "Per second", "First reading", "Minimum", "Maximum", "Deviation", "State in Redis"]) {
      const [pair, term, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      term.textContent = title;
      pair.append(term, value);
      byId("facts").append(pair);
      this.facts.set(title, value);
    }
    this.age = document.createElement("span");
    this.age.className = "age";
    this.facts.get("Latest").previousSibling.append(", ", this.age);
    this.byHand = byId("by-hand");
    sends(this.byHand, () => this.name);
    byId("component").addEventListener("change", () => {
      this.component = byId("component").selectedIndex;
      this.show(this.stream, this.now);
    });
  }

  /** Opens a stream whose state has not arrived yet. */
  open(name) {
    this.name = name;
    this.stream = undefined;
    this.shape = undefined;
    this.component = 0;
    byId("name").replaceChildren(...nameParts(name));
    byId("known").hidden = true;
    byId("gone").hidden = true;
    this.byHand.reset();
    this.byHand.querySelector(".result").textContent = "";
    byId("name").focus();
  }

  history() {
    if (!this.histories.has(this.name)) this.histories.set(this.name, new History());
    if (this.histories.size > MOST_KEPT) this.histories.delete(this.histories.keys().next().value);
    return this.histories.get(this.name);
  }

  /** Adds a new state. */
  add(stream, now) {
    const { count, average, standard_deviation: deviation } = stream.state;
    const only = (value) => numbers.components(value).map(([, number]) => number);
    this.history().add(now, count, only(average), deviation === null ? null : only(deviation));
    this.show(stream, now);
  }

  /** Shows that the stream does not exist, or was deleted. */
  gone() {
    const wasThere = this.stream !== undefined;
    byId("gone").textContent = wasThere
      ? "This stream was deleted. Its last state is shown below. The next reading starts a new stream."
      : "No readings have been recorded under this name yet. The first one will appear here.";
    byId("gone").hidden = false;
    if (!wasThere) this.#terminal(21.4);
  }

  /** Shows a stream as of `now`. */
  show(stream, now) {
    if (stream === undefined || stream.name !== this.name) return;
    this.stream = stream;
    this.now = now;
    const { state } = stream;
    const parts = numbers.components(state.average);
    const shape = parts.map(([label]) => label).join("\n");
    if (shape !== this.shape) this.#reshape(parts, shape, state.average);
    const i = Math.min(this.component, parts.length - 1);
    const pick = (value) => numbers.components(value)[i]?.[1];
    byId("big-label").textContent = parts.length > 1 || parts[0][0] ? `Average of ${parts[i][0]}` : "Average";
    const [read, rest] = numbers.exact(parts[i][1]);
    const tail = document.createElement("span");
    tail.className = "tail";
    tail.textContent = rest;
    byId("big").replaceChildren(read, tail);
    const seconds = (now - stream.last) / 1000;
    const stale = isStale(stream, now);
    byId("detail").classList.toggle("stale", stale);
    this.age.textContent = `${stale ? "quiet, " : ""}${numbers.age(seconds)} ago`;
    this.age.title = numbers.fullTime(stream.last);
    const facts = {
      "Latest": numbers.short(pick(state.latest)),
      "Count": numbers.whole(state.count),
      "Per second": numbers.rate(rateNow(stream, now)),
      "First reading": numbers.fullTime(stream.first),
      "Minimum": numbers.short(pick(state.minimum)),
      "Maximum": numbers.short(pick(state.maximum)),
      "Deviation": numbers.short(pick(state.standard_deviation)),
      "State in Redis": numbers.bytes(state.state_bytes),
    };
    for (const [title, text] of Object.entries(facts)) this.facts.get(title).textContent = text;
    byId("gone").hidden = true;
    byId("known").hidden = false;
    if (!byId("parts-panel").hidden) this.#parts(state);
    this.chart.draw(this.history(), i, now);
  }

  #reshape(parts, shape, average) {
    this.shape = shape;
    this.component = 0;
    const isOne = parts.length === 1 && parts[0][0] === "";
    byId("component").replaceChildren(...parts.map(([label]) => new Option(label)));
    byId("component-field").hidden = byId("parts-panel").hidden = isOne;
    byId("parts").replaceChildren(...parts.map(([label]) => {
      const row = document.createElement("tr");
      for (let i = 0; i < 6; i++) row.append(document.createElement("td"));
      row.cells[0].textContent = label;
      return row;
    }));
    byId("value-help").textContent = isOne ? "A number." : "An array or object of the same shape, as JSON.";
    const example = rounded(average);
    this.byHand.elements.value.value = JSON.stringify(example);
    this.#terminal(example);
  }

  #parts(state) {
    const columns = [state.average, state.latest, state.minimum, state.maximum, state.standard_deviation].map(numbers.components);
    [...byId("parts").rows].forEach((row, i) => {
      columns.forEach((column, j) => (row.cells[j + 1].textContent = numbers.short(column[i]?.[1])));
    });
  }

  #terminal(example) {
    byId("curl-post").textContent = curlToPost(this.name, example);
    byId("curl-read").textContent = curlToRead(this.name);
    byId("curl-events").textContent = curlToFollow(this.name);
  }
}

/** An example with the shape of a value. */
function rounded(value) {
  if (typeof value === "number") return Number(value.toPrecision(4));
  if (Array.isArray(value)) return value.map(rounded);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, rounded(part)]));
}
