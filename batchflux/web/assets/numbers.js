// What the charts show, worked out from all rows of the run. Times in epoch seconds.
const WIDTHS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 604800];
const MOST_BINS = 60;
const endOf = (row) => Date.parse(columns.finished_at[row] || columns.started_at[row]) / 1000;

// The shortest whole width that gives at most MOST_BINS bins over these times; bins start at `from`.
function binsOver(times) {
  let from = Infinity;
  let to = -Infinity;
  for (const time of times) {
    if (time < from) from = time;
    if (time > to) to = time;
  }
  if (from > to) return null;
  const width = WIDTHS.find((size) => Math.floor(to / size) - Math.floor(from / size) < MOST_BINS) ?? Math.ceil((to - from) / MOST_BINS);
  const first = Math.floor(from / width) * width;
  return { from: first, width, count: Math.floor((to - first) / width) + 1 };
}

function rowsThat(test) {
  const rows = [];
  for (let row = 0; row < rowCount; row++) if (test(row) && !Number.isNaN(endOf(row))) rows.push(row);
  return rows;
}

// Pictures that were finished in each bin, and what that is a minute.
function throughput() {
  const times = rowsThat((row) => columns.status[row] === "done").map(endOf);
  const bins = binsOver(times);
  if (!bins) return null;
  const counts = new Array(bins.count).fill(0);
  for (const time of times) counts[Math.floor((time - bins.from) / bins.width)] += 1;
  return { ...bins, total: times.length, counts, rates: counts.map((count) => (count * 60) / bins.width) };
}

// Percentiles by nearest rank: the smallest value that at least p % of all values do not exceed.
const percentile = (sorted, p) => sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)];

function latency() {
  const values = [];
  for (let row = 0; row < rowCount; row++) if (columns.api_seconds[row] !== null) values.push(columns.api_seconds[row]);
  if (!values.length) return null;
  values.sort((a, b) => a - b);
  const longest = values.at(-1);
  const width = niceStep(longest / 24);
  const counts = new Array(Math.floor(longest / width) + 1).fill(0);
  for (const value of values) counts[Math.floor(value / width)] += 1;
  const [p50, p95, p99] = [50, 95, 99].map((p) => percentile(values, p));
  return { width, counts, p50, p95, p99, total: values.length, longest };
}

// What was spent by the end of each bin. What rows cannot tell (jobs under way or no longer listed) is there from the start.
function spending(header) {
  const rows = rowsThat((row) => Number(columns.spent[row]) > 0);
  const bins = binsOver(rows.map(endOf));
  const total = Number(header.spent);
  if (!bins || !total) return null;
  const steps = new Array(bins.count).fill(0);
  let told = 0;
  for (const row of rows) {
    const spent = Number(columns.spent[row]);
    steps[Math.floor((endOf(row) - bins.from) / bins.width)] += spent;
    told += spent;
  }
  const elsewhere = Math.max(0, total - told) < 1e-6 ? 0 : total - told;
  let sum = elsewhere;
  const sums = steps.map((step) => tidy((sum += step)));
  return { ...bins, sums, elsewhere: tidy(elsewhere), total, budget: header.budget === null ? null : Number(header.budget) };
}

const tidy = (number) => Math.round(number * 1e9) / 1e9;

// Jobs that ended without a picture, by code, in each bin; the most frequent code first.
function failuresOverTime() {
  const rows = rowsThat((row) => columns.status[row] !== "done" && columns.error_code[row]);
  const bins = binsOver(rows.map(endOf));
  if (!bins) return null;
  const codes = new Map();
  for (const row of rows) {
    const counts = codes.get(columns.error_code[row]) ?? new Array(bins.count).fill(0);
    codes.set(columns.error_code[row], counts);
    counts[Math.floor((endOf(row) - bins.from) / bins.width)] += 1;
  }
  const sum = (counts) => counts.reduce((a, b) => a + b, 0);
  const series = [...codes].map(([code, counts]) => ({ code, counts, total: sum(counts) })).sort((a, b) => b.total - a.total || compare(a.code, b.code));
  return { ...bins, series, total: rows.length };
}

// 1, 2 or 5 times a power of ten, at least `size`.
function niceStep(size) {
  const power = 10 ** Math.floor(Math.log10(size || 1));
  return power * ([1, 2, 5, 10].find((step) => step * power >= size * (1 - 1e-9)) ?? 10);
}
