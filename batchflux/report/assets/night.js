// The runs of the folder by the time: what came when, what was waited for, and the runs beside each other.
import { byId, choice, h, s } from "./dom.js";
import { endSays } from "./header.js";
import { change, state } from "./state.js";
import { setup } from "./store.js";
import { bars, BOTTOM, frame, LEFT, numbersTable, sayTime, setWidth, TALL, timeLabels, TOP, WIDE } from "./svg.js";
import { called, clock, dayAndClock, duration, money, one, say, when, whole } from "./words.js";

const LANE = 26;
const epochOf = (iso) => Date.parse(iso) / 1000;

export function showNight() {
  const host = byId("night");
  const nights = setup.nights;
  if (!nights.length) return host.replaceChildren(h("p", { class: "empty" }, say.noNights));
  setWidth(Math.max(240, host.clientWidth - 50)); // as the padding of a chart
  const night = nights.find(({ started_at }) => started_at === state.night) ?? nights.at(-1);
  const data = inTime(night);
  return host.replaceChildren(
    nightChoice(nights, night),
    nightSummary(night),
    paceChart(night, data),
    lanesChart(night, data),
    troubleChart(night, data),
    moneyChart(night, data),
    nightEvents(night),
    nights.length > 1 ? nightsTable(nights, night) : "",
  );
}

// The bins with the start of each, as charts take them; `share` is where a time lies in them.
function inTime(night) {
  const { bins } = night;
  const starts = bins.images.map((_, k) => bins.start + k * bins.width);
  const whole = starts.length * bins.width;
  const share = (time) => Math.min(1, Math.max(0, (time - bins.start) / whole));
  return { ...bins, starts, cuts: [], share };
}

function nightChoice(nights, night) {
  if (nights.length < 2) return "";
  const pairs = [...nights].reverse().map((one) => [one.started_at, `${when(one.started_at)} · ${outcomeOf(one)}`]);
  return h(
    "p",
    { class: "which" },
    h(
      "label",
      null,
      `${say.whichNight} `,
      choice({ "data-for": "night", onchange: (event) => change({ night: event.target.value }) }, pairs, night.started_at),
    ),
  );
}

const outcomeOf = (night) => (night.state === "ended" ? night.reason || called(say.nightStates, night.state) : called(say.nightStates, night.state));

function nightSummary(night) {
  const { currency } = night;
  const to = night.state === "running" ? say.now : when(night.last_sign_at);
  const made = say.nightMade(night.done, night.failed, night.unknown);
  const spent = say.nightSpent(
    money(night.spent, currency),
    night.budget_per_run === null ? "" : money(night.budget_per_run, currency),
    night.price === null ? "" : money(Number(night.price).toFixed(4), currency),
  );
  const parts = [
    say.nightSays(when(night.started_at), to, duration(night.seconds), made, one.format(night.images_per_minute)),
    spent,
    night.possibly_billed ? say.nightMaybe(night.possibly_billed) : "",
    deadlineSays(night),
  ];
  return h("p", { class: "message" }, parts.filter(Boolean).join(" "));
}

function deadlineSays(night) {
  if (night.deadline === null) return "";
  const at = `${when(night.deadline)} ${zoneOf(night.deadline)}`;
  const spare = night.deadline_seconds_to_spare;
  if (night.reason === "deadline") return say.deadlineStopped(at);
  if (spare < 0) return say.deadlineMissed(at, duration(-spare));
  if (night.state === "running") return say.deadlineLeft(at, duration(spare));
  return (night.reason === "finished" ? say.deadlineMet : say.deadlineAhead)(at, duration(spare));
}

// The name of the zone that this page says times in.
function zoneOf(iso) {
  const parts = new Intl.DateTimeFormat(say.dates, { timeZoneName: "short" }).formatToParts(new Date(iso));
  return parts.find(({ type }) => type === "timeZoneName")?.value ?? "";
}

function nightCard(name, title, says, ...children) {
  return h(
    "section",
    { class: "chart", "data-chart": name, "aria-labelledby": `night-${name}` },
    h("h3", { id: `night-${name}` }, title),
    h("p", { class: "says" }, says),
    children,
  );
}

function paceChart(night, data) {
  const rates = data.images.map((count) => (count * 60) / data.width);
  const most = Math.max(...rates);
  const says = most ? say.nightPaceSays(one.format(most), duration(data.width)) : say.noSpeed;
  const plot = frame({ title: say.nightPace, says, most: most || 1, format: (value) => one.format(value), labels: timeLabels(data) });
  for (const stretch of night.stretches) {
    const [from, to] = endsOf(stretch, night).map(data.share);
    plot.svg.append(
      s(
        "rect",
        { class: `shade ${stretch.kind}`, x: plot.x(from), width: Math.max(1, plot.x(to) - plot.x(from)), y: TOP, height: TALL - BOTTOM - TOP },
        s("title", null, `${laneName(stretch)}: ${stretch.why}`),
      ),
    );
  }
  bars(plot, [rates], []);
  markDeadline(plot, night, data);
  markNotes(plot, night, data);
  const rows = data.images.map((count, k) => [sayTime(data, data.starts[k]), whole.format(count)]);
  return nightCard("pace", say.nightPace, says, plot.svg, numbersTable(say.nightPaceHeads, rows));
}

const endsOf = ({ since, until }, night) => [epochOf(since), epochOf(until ?? night.last_sign_at)];

function markDeadline({ svg, x }, night, data) {
  const at = epochOf(night.deadline ?? "");
  const end = data.starts.at(-1) + data.width;
  if (!(at >= data.start && at <= end)) return;
  const share = data.share(at);
  svg.append(
    s("line", { class: "limit", x1: x(share), x2: x(share), y1: TOP, y2: TALL - BOTTOM }),
    s("text", { class: "limit-text", x: x(share) - 4, y: TOP - 6, "text-anchor": share < 0.1 ? "start" : "end" }, say.deadline),
  );
}

function markNotes({ svg, x }, night, data) {
  for (const note of night.notes) {
    const at = x(data.share(epochOf(note.at)));
    svg.append(s("path", { class: "note", d: `M${at - 5} ${TOP - 8}h10l-5 8z` }, s("title", null, noteSays(note))));
  }
}

function noteSays({ event, text }) {
  const named = called(say.eventNames, event);
  return named === event ? text || event : `${named} ${text}`;
}

function laneName({ kind, what }) {
  return called(say.kinds, kind)(called(say.waitReasons, what));
}

// One lane for each thing that was waited for.
function lanesChart(night, data) {
  const lanes = night.waits.filter((lane) => lane.seconds >= 0.5 || lane.kind !== "wait");
  if (!lanes.length) return nightCard("lanes", say.nightLanes, say.nightNoLanes);
  const says = say.nightLanesSays(lanes.map((lane) => say.lane(laneName(lane), duration(lane.seconds))));
  const tall = lanes.length * LANE + BOTTOM;
  const x = (share) => LEFT + share * (WIDE - LEFT - 6);
  const svg = s("svg", { viewBox: `0 0 ${WIDE} ${tall}`, role: "img", "aria-label": `${say.nightLanes}. ${says}` });
  for (const [k, lane] of lanes.entries()) {
    const top = k * LANE;
    svg.append(s("line", { class: "grid", x1: LEFT, x2: WIDE - 6, y1: top + LANE, y2: top + LANE }));
    for (const stretch of night.stretches) {
      if (stretch.kind !== lane.kind || stretch.what !== lane.what) continue;
      const [from, to] = endsOf(stretch, night).map(data.share);
      svg.append(
        s(
          "rect",
          { class: `lane ${lane.kind}`, x: x(from), width: Math.max(2, x(to) - x(from)), y: top + 16, height: 8, rx: 2 },
          s("title", null, stretch.why || laneName(lane)),
        ),
      );
    }
    svg.append(s("text", { x: LEFT, y: top + 12 }, laneName(lane)));
  }
  /** @type {any[][]} */
  const labels = timeLabels(data);
  for (const [share, label] of labels) {
    const anchor = share < 0.05 ? "start" : share > 0.95 ? "end" : "middle";
    svg.append(s("text", { x: x(share), y: tall - 6, "text-anchor": anchor }, label));
  }
  const rows = night.stretches.map((stretch) => [
    sayTime(data, epochOf(stretch.since)),
    stretch.until === "" ? say.now : sayTime(data, epochOf(stretch.until)),
    laneName(stretch),
    stretch.why,
  ]);
  return nightCard("lanes", say.nightLanes, says, svg, numbersTable(say.laneHeads, rows));
}

function troubleChart(night, data) {
  const codes = [...Object.entries(night.refused), ...Object.entries(night.failures)];
  if (!codes.length) return nightCard("trouble", say.nightTrouble, say.nightNoTrouble);
  const says = say.nightTroubleSays(codes.sort((a, b) => b[1] - a[1]).map(([code, count]) => `${whole.format(count)} ${code}`));
  const most = Math.max(...data.limited.map((count, k) => count + data.failed[k]));
  const plot = frame({ title: say.nightTrouble, says, most, format: (value) => whole.format(value), least: 1, labels: timeLabels(data) });
  const names = ["fill-5", "fill-2"];
  bars(plot, [data.limited, data.failed], names);
  markDeadline(plot, night, data);
  const legend = h(
    "ul",
    { class: "legend" },
    [say.limited, say.otherFailures].map((label, k) =>
      h("li", null, s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("rect", { class: names[k], width: 10, height: 10, rx: 2 })), label),
    ),
  );
  const rows = data.limited.map((count, k) => [sayTime(data, data.starts[k]), whole.format(count), whole.format(data.failed[k])]);
  return nightCard("trouble", say.nightTrouble, says, plot.svg, legend, numbersTable(say.nightTroubleHeads, rows));
}

function moneyChart(night, data) {
  const total = data.spent.at(-1);
  if (!total) return nightCard("money", say.nightMoney, say.nightNoMoney);
  const most = night.budget_per_run === null ? 0 : Number(night.budget_per_run);
  const says = say.nightSpent(money(night.spent, night.currency), most ? money(night.budget_per_run, night.currency) : "", "");
  const plot = frame({ title: say.nightMoney, says, most: Math.max(total, most), format: (value) => money(Math.round(value * 1e6) / 1e6, ""), labels: timeLabels(data) });
  const points = [[0, 0], ...data.spent.map((sum, k) => [(k + 1) / data.spent.length, sum])].map(([share, sum]) => `${plot.x(share)},${plot.y(sum)}`);
  plot.svg.append(
    s("polygon", { class: "area", points: `${points.join(" ")} ${plot.x(1)},${plot.y(0)}` }),
    s("polyline", { class: "path", points: points.join(" ") }),
  );
  if (most) {
    plot.svg.append(
      s("line", { class: "limit", x1: LEFT, x2: WIDE - 6, y1: plot.y(most), y2: plot.y(most) }),
      s("text", { class: "limit-text", x: WIDE - 6, y: plot.y(most) - 5, "text-anchor": "end" }, `${say.budget} ${say.perRun}`),
    );
  }
  markDeadline(plot, night, data);
  const rows = data.spent.map((sum, k) => [sayTime(data, data.starts[k] + data.width), money(sum, "")]);
  return nightCard("money", say.nightMoney, says, plot.svg, numbersTable(say.nightMoneyHeads(night.currency), rows));
}

// What happened, from its beginning to its end.
function nightEvents(night) {
  const end = night.state === "stopped" ? say.runCutOff : night.state === "ended" ? endSays(night.reason, night.message) : "";
  const list = [
    [night.started_at, say.runBegan(night.todo)],
    ...night.stretches.filter(({ kind }) => kind !== "wait").map((stretch) => [stretch.since, `${laneName(stretch)}, ${lastedFor(stretch, night)}: ${stretch.why}`]),
    ...night.notes.map((note) => [note.at, noteSays(note)]),
  ].sort((a, b) => (a[0] < b[0] ? -1 : 1));
  if (night.more_notes) list.push(["", say.moreEvents(night.more_notes)]);
  if (end) list.push([night.last_sign_at, end]);
  return h(
    "section",
    { class: "chart", "data-chart": "events", "aria-labelledby": "night-events" },
    h("h3", { id: "night-events" }, say.nightEvents),
    plainTable(
      say.eventHeads,
      list.map(([at, text]) => [at && (night.seconds < 7200 ? clock : dayAndClock).format(new Date(at)), text]),
      "happened",
    ),
  );
}

const lastedFor = (stretch, night) => duration(endsOf(stretch, night)[1] - endsOf(stretch, night)[0]);

function plainTable(heads, rows, name) {
  return h(
    "div",
    { class: `grid-table ${name}`, tabindex: "0", role: "region", "aria-label": heads.join(", ") },
    h(
      "table",
      null,
      h("thead", null, h("tr", null, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", null, rows.map((cells) => h("tr", null, cells.map((cell, k) => (k ? h("td", null, cell) : h("th", { scope: "row" }, cell)))))),
    ),
  );
}

function nightsTable(nights, night) {
  const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);
  const rows = [...nights].reverse().map((each) => [
    each === night
      ? h("b", null, dayAndClock.format(new Date(each.started_at)))
      : h("button", { type: "button", class: "plain", onclick: () => change({ night: each.started_at }) }, dayAndClock.format(new Date(each.started_at))),
    duration(each.seconds),
    ...[each.done, each.failed, each.unknown].map((count) => whole.format(count)),
    one.format(each.images_per_minute),
    money(each.spent, ""),
    each.price === null ? "–" : money(Number(each.price).toFixed(4), ""),
    whole.format(sum(each.refused)),
    each.waits.length ? duration(each.waits.reduce((all, wait) => all + wait.seconds, 0)) : "–",
    outcomeOf(each),
  ]);
  return h(
    "section",
    { class: "chart", "data-chart": "nights", "aria-labelledby": "night-nights" },
    h("h3", { id: "night-nights" }, say.allNights),
    plainTable(say.nightHeads, rows, "nights"),
  );
}
