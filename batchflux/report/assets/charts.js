// Four charts of the whole run: speed, latency, money, failures. Each says in a sentence what it shows.
import { byId, h, s } from "./dom.js";
import { failuresOverTime, latency, spending, throughput, tidy } from "./numbers.js";
import { header } from "./store.js";
import {
  bars,
  BOTTOM,
  frame,
  LEFT,
  markCuts,
  numbersTable,
  sayTime,
  setWidth,
  TALL,
  timeLabels,
  TOP,
  WIDE,
} from "./svg.js";
import { duration, money, one, say, whole } from "./words.js";

export function showCharts() {
  const room = byId("charts").clientWidth;
  const columnsBeside = room >= 976 ? 2 : 1; // as in charts.css: two columns of at least 480 and a gap of 16
  setWidth(Math.max(240, Math.round((room - 16 * (columnsBeside - 1)) / columnsBeside) - 50));
  const made = [speedChart(), latencyChart(), spendingChart(), failuresChart()].filter(Boolean);
  byId("charts").replaceChildren(...made);
}

function card(name, title, says, ...children) {
  return h(
    "section",
    { class: "chart", "data-chart": name, "aria-labelledby": `chart-${name}` },
    h("h3", { id: `chart-${name}` }, title),
    h("p", { class: "says" }, says),
    children,
  );
}

const empty = (name, title, says) => card(name, title, says);
const binStart = (bins, k) => sayTime(bins, bins.starts[k]);
const inParts = ({ cuts }) => (cuts.length ? say.inParts(cuts.length + 1) : "");

function speedChart() {
  const title = say.speed;
  const data = throughput();
  if (!data) return empty("speed", title, say.noSpeed);
  const most = Math.max(...data.rates);
  const says = say.speedSays(data.total, duration(data.starts.length * data.width), inParts(data), one.format(most), duration(data.width));
  const plot = frame({ title, says, most, format: (value) => one.format(value), labels: timeLabels(data) });
  bars(plot, [data.rates], []);
  markCuts(plot, data);
  return card(
    "speed",
    title,
    says,
    plot.svg,
    numbersTable(
      say.speedHeads,
      data.counts.map((count, k) => [binStart(data, k), count, one.format(data.rates[k])]),
    ),
  );
}

function latencyChart() {
  const title = say.latency;
  const data = latency();
  if (!data) return empty("latency", title, say.noLatency);
  const says = say.latencySays(data.total, duration(data.p50), duration(data.p95), duration(data.p99), duration(data.longest));
  const end = data.counts.length * data.width;
  const plot = frame({
    title,
    says,
    most: Math.max(...data.counts),
    format: (value) => whole.format(value),
    least: 1,
    labels: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${tidy(Math.round(share * end * 1000) / 1000)} ${say.units.s}`]),
  });
  bars(plot, [data.counts], []);
  markPercentiles(plot, data, end);
  const rows = [
    ["p50", `${data.p50.toFixed(3)} ${say.units.s}`],
    ["p95", `${data.p95.toFixed(3)} ${say.units.s}`],
    ["p99", `${data.p99.toFixed(3)} ${say.units.s}`],
  ];
  const bins = data.counts.map((count, k) => [say.binRange(tidy(k * data.width), tidy((k + 1) * data.width)), count]);
  return card("latency", title, says, plot.svg, numbersTable(say.latencyHeads, [...rows, ...bins]));
}

// Labels that would lie on one another go on two lines of their own.
function markPercentiles({ svg, x }, data, end) {
  let last = -Infinity;
  for (const name of ["p50", "p95", "p99"]) {
    const at = x(data[name] / end);
    const low = at - last < 30;
    last = low ? -Infinity : at;
    svg.append(
      s("line", { class: "mark", x1: at, x2: at, y1: low ? TOP : TOP - 4, y2: TALL - BOTTOM }),
      s(
        "text",
        {
          class: "mark-text",
          x: low ? at + 4 : at,
          y: low ? TOP + 10 : TOP - 7,
          "text-anchor": low ? "start" : "middle",
        },
        name,
      ),
    );
  }
}

function spendingChart() {
  const title = say.spend;
  const data = spending(header);
  const currency = header.currency;
  if (!data) return empty("spend", title, say.noSpend);
  const limit =
    data.budget === null
      ? say.noBudget
      : say.ofBudget(money(header.budget, currency), one.format((100 * data.total) / data.budget));
  const before =
    data.elsewhere > 0 ? say.elsewhere(money(data.elsewhere, currency)) : "";
  const says = say.spendSays(money(header.spent, currency), limit, before);
  const plot = frame({
    title,
    says,
    most: Math.max(data.total, data.budget ?? 0),
    format: (value) => money(tidy(value), ""),
    labels: timeLabels(data),
  });
  const points = [[0, data.elsewhere], ...data.sums.map((sum, k) => [(k + 1) / data.sums.length, sum])].map(
    ([share, sum]) => `${plot.x(share)},${plot.y(sum)}`,
  );
  plot.svg.append(
    s("polygon", { class: "area", points: `${plot.x(0)},${plot.y(0)} ${points.join(" ")} ${plot.x(1)},${plot.y(0)}` }),
    s("polyline", { class: "path", points: points.join(" ") }),
  );
  markCuts(plot, data);
  if (data.budget !== null) {
    plot.svg.append(
      s("line", { class: "limit", x1: LEFT, x2: WIDE - 6, y1: plot.y(data.budget), y2: plot.y(data.budget) }),
      s("text", { class: "limit-text", x: WIDE - 6, y: plot.y(data.budget) - 5, "text-anchor": "end" }, say.budget),
    );
  }
  return card(
    "spend",
    title,
    says,
    plot.svg,
    numbersTable(
      say.spendHeads(currency),
      data.sums.map((sum, k) => [sayTime(data, data.starts[k] + data.width), money(sum, "")]),
    ),
  );
}

const FILLS = 6;
function failuresChart() {
  const title = say.failuresTitle;
  const data = failuresOverTime();
  if (!data) return empty("failures", title, say.noFailures);
  const says = say.failuresSays(data.total, data.series.map(({ code, total }) => `${whole.format(total)} ${code}`));
  const shown = data.series.slice(0, FILLS - 1);
  const others = data.series.slice(FILLS - 1);
  if (others.length === 1) shown.push(others[0]);
  else if (others.length)
    shown.push({
      code: say.otherCodes,
      counts: others[0].counts.map((_, k) => others.reduce((sum, { counts }) => sum + counts[k], 0)),
      total: others.reduce((sum, { total }) => sum + total, 0),
    });
  const sums = shown[0].counts.map((_, k) => shown.reduce((sum, { counts }) => sum + counts[k], 0));
  const plot = frame({
    title,
    says,
    most: Math.max(...sums),
    format: (value) => whole.format(value),
    least: 1,
    labels: timeLabels(data),
  });
  bars(
    plot,
    shown.map(({ counts }) => counts),
    shown.map((_, k) => `fill-${k + 1}`),
  );
  markCuts(plot, data);
  const legend = h(
    "ul",
    { class: "legend" },
    shown.map(({ code }, k) =>
      h(
        "li",
        null,
        s(
          "svg",
          { viewBox: "0 0 10 10", "aria-hidden": "true" },
          s("rect", { class: `fill-${k + 1}`, width: 10, height: 10, rx: 2 }),
        ),
        code,
      ),
    ),
  );
  return card(
    "failures",
    title,
    says,
    plot.svg,
    legend,
    numbersTable(
      [say.from, ...data.series.map(({ code }) => code)],
      data.series[0].counts.map((_, k) => [binStart(data, k), ...data.series.map(({ counts }) => counts[k])]),
    ),
  );
}
