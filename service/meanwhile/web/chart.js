// The chart of one component: its average, a band of one standard deviation, and the incoming readings.

import { timeOfDay } from "./numbers.js";

const SHORTEST = 30; // Minimum seconds on the time axis.

/** The states of a stream since it was opened; the service keeps no history. */
export class History {
  constructor() {
    this.points = [];
  }

  /** Adds a state: the numbers of its average and of its deviation. */
  add(time, count, averages, deviations) {
    const last = this.points.at(-1);
    if (last && (count < last.count || averages.length !== last.averages.length)) this.points = [];
    else if (last && count === last.count) return;
    // The mean of a batch follows from the averages around it: (n2 a2 - n1 a1) / (n2 - n1).
    const batch = last && this.points.length && averages.map((average, i) => {
      const before = last.averages[i];
      return before + (average - before) * (count / (count - last.count));
    });
    this.points.push({ time: time / 1000, count, averages, deviations, batch: batch || null });
    const most = Math.max(120, Math.min(3600, Math.floor(200_000 / averages.length)));
    if (this.points.length > most) this.points.splice(0, this.points.length - most);
  }
}

export class Chart {
  constructor(place) {
    this.place = place;
    this.points = [];
    this.component = 0;
    this.now = Date.now();
    new ResizeObserver(() => this.#resize()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#make());
  }

  draw(history, component, now) {
    this.points = history.points;
    this.component = component;
    this.now = now;
    if (this.plot === undefined) this.#make();
    else this.plot.setData(this.#data());
  }

  #data() {
    const i = this.component;
    const columns = [[], [], [], [], []];
    for (const { time, averages, deviations, batch } of this.points) {
      const deviation = deviations?.[i] ?? null;
      columns[0].push(time);
      columns[1].push(deviation === null ? null : averages[i] + deviation);
      columns[2].push(deviation === null ? null : averages[i] - deviation);
      columns[3].push(averages[i]);
      columns[4].push(batch ? batch[i] : null);
    }
    return columns;
  }

  #make() {
    this.plot?.destroy();
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    const axis = {
      stroke: color("soft"), font: "11px system-ui, sans-serif",
      grid: { stroke: color("line"), width: 1 }, ticks: { show: false },
    };
    const none = { show: false };
    this.plot = new uPlot({
      width: this.place.clientWidth || 600,
      height: this.place.clientHeight || 260,
      legend: none,
      cursor: { drag: { x: false, y: false }, points: none, y: false },
      padding: [10, 8, 0, 0],
      scales: { x: { time: true, range: () => this.#range() } },
      axes: [{ ...axis, grid: none, size: 30, values: (_, ticks) => ticks.map((tick) => timeOfDay(tick * 1000)) }, { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => String(+tick.toPrecision(6))) }],
      bands: [{ series: [1, 2], fill: color("band") }],
      series: [
        {},
        { stroke: "transparent", points: none },
        { stroke: "transparent", points: none },
        { stroke: color("accent"), width: 2, points: none },
        { paths: () => null, points: { show: true, size: 5, width: 0, fill: color("batch"), stroke: color("batch") } },
      ],
    }, this.#data(), this.place);
  }

  #range() {
    const end = this.now / 1000;
    return [Math.min(this.points[0]?.time ?? end, end - SHORTEST), end];
  }

  #resize() {
    if (this.plot !== undefined && this.place.clientWidth) {
      this.plot.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
    }
  }
}
