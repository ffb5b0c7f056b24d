// What the charts show, worked out from all rows of the run. Times in epoch seconds.
import { compare } from "./fields.js";
import { columns, presentRows } from "./store.js";

const WIDTHS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 604800];
const MOST_BINS = 60;
const endOf = (row) => Date.parse(columns.finished_at[row] || columns.started_at[row]) / 1000;

// Bins over these times, of the shortest whole width that gives at most MOST_BINS. A run that was continued much later
// has parts; the time between them is left out, and `cuts` holds the bins that begin a part after the first.
function binsOver(times) {
  if (!times.length) return null;
  const parts = partsOf([...times].sort((a, b) => a - b));
  /** @type {(part: number[], width: number) => number} */
  const sizeOf = ([from, to], width) => Math.floor(to / width) - Math.floor(from / width) + 1;
  const width =
    WIDTHS.find(
      (size) => parts.reduce((sum, part) => sum + sizeOf(part, size), 0) <= Math.max(MOST_BINS, 2 * parts.length),
    ) ?? WIDTHS.at(-1);
  const starts = [];
  const cuts = [];
  for (const part of parts) {
    const first = Math.floor(part[0] / width);
    const count = sizeOf(part, width);
    for (let k = 0; k < count; k++) {
      if ((first + k) * width <= starts.at(-1)) continue; // parts that meet in one bin
      if (k === 0 && starts.length) cuts.push(starts.length);
      starts.push((first + k) * width);
    }
  }
  return { width, starts, cuts, of: (time) => lastAtMost(starts, time) };
}

// The parts of a run as [from, to]: split where nothing ended for five minutes and for fifty times the usual gap.
function partsOf(sorted) {
  const gaps = sorted.slice(1).map((time, k) => time - sorted[k]);
  const usual = [...gaps].sort((a, b) => a - b)[gaps.length >> 1] ?? 0;
  const idle = Math.max(300, 50 * usual);
  const parts = [[sorted[0], sorted[0]]];
  for (const [k, gap] of gaps.entries()) {
    if (gap > idle) parts.push([sorted[k + 1], sorted[k + 1]]);
    else parts.at(-1)[1] = sorted[k + 1];
  }
  return parts;
}

export function lastAtMost(sorted, value) {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (sorted[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

function rowsThat(test) {
  return presentRows().filter((row) => test(row) && !Number.isNaN(endOf(row)));
}

// Pictures that were finished in each bin, and what that is a minute.
export function throughput() {
  const times = rowsThat((row) => columns.status[row] === "done").map(endOf);
  const bins = binsOver(times);
  if (!bins) return null;
  const counts = new Array(bins.starts.length).fill(0);
  for (const time of times) counts[bins.of(time)] += 1;
  return { ...bins, total: times.length, counts, rates: counts.map((count) => (count * 60) / bins.width) };
}

// Percentiles by nearest rank: the smallest value that at least p % of all values do not exceed.
const percentile = (sorted, p) => sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)];

export function latency() {
  const values = presentRows()
    .map((row) => columns.api_seconds[row])
    .filter((value) => value !== null);
  if (!values.length) return null;
  values.sort((a, b) => a - b);
  const longest = values.at(-1);
  const width = niceStep(longest / 24);
  const binOf = (value) => Math.floor(value / width + 1e-9); // 0.15 / 0.05 is a little less than 3
  const counts = new Array(binOf(longest) + 1).fill(0);
  for (const value of values) counts[binOf(value)] += 1;
  const [p50, p95, p99] = [50, 95, 99].map((p) => percentile(values, p));
  return { width, counts, p50, p95, p99, total: values.length, longest };
}

// What was spent by the end of each bin. What rows cannot tell (jobs under way or no longer listed) is there from the start.
export function spending(header) {
  const rows = rowsThat((row) => Number(columns.spent[row]) > 0);
  const bins = binsOver(rows.map(endOf));
  const total = Number(header.spent);
  if (!bins || !total) return null;
  const steps = new Array(bins.starts.length).fill(0);
  let told = 0;
  for (const row of rows) {
    const spent = Number(columns.spent[row]);
    steps[bins.of(endOf(row))] += spent;
    told += spent;
  }
  const elsewhere = Math.max(0, total - told) < 1e-6 ? 0 : total - told;
  let sum = elsewhere;
  const sums = steps.map((step) => tidy((sum += step)));
  return {
    ...bins,
    sums,
    elsewhere: tidy(elsewhere),
    total,
    budget: header.budget === null ? null : Number(header.budget),
  };
}

export const tidy = (number) => Math.round(number * 1e9) / 1e9;

// Jobs that ended without a picture, by code, in each bin; the most frequent code first.
export function failuresOverTime() {
  const rows = rowsThat((row) => columns.status[row] !== "done" && columns.error_code[row]);
  const bins = binsOver(rows.map(endOf));
  if (!bins) return null;
  const codes = new Map();
  for (const row of rows) {
    const counts = codes.get(columns.error_code[row]) ?? new Array(bins.starts.length).fill(0);
    codes.set(columns.error_code[row], counts);
    counts[bins.of(endOf(row))] += 1;
  }
  const sum = (counts) => counts.reduce((a, b) => a + b, 0);
  const series = [...codes]
    .map(([code, counts]) => ({ code, counts, total: sum(counts) }))
    .sort((a, b) => b.total - a.total || compare(a.code, b.code));
  return { ...bins, series, total: rows.length };
}

// 1, 2 or 5 times a power of ten, at least `size`.
export function niceStep(size) {
  const power = 10 ** Math.floor(Math.log10(size || 1));
  return power * ([1, 2, 5, 10].find((step) => step * power >= size * (1 - 1e-9)) ?? 10);
}
