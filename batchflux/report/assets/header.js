// The header: what the run is, how it stands, what it cost. It is built anew when the server says that it changed.
import { byId, fill, h } from "./dom.js";
import { change } from "./state.js";
import { header, setup } from "./store.js";
import { duration, money, one, when, whole } from "./words.js";

let headerFor = "";
const STATES = { __proto__: null, running: "● running", ended: "ended", stopped: "cut off", none: "" };

export function showHeader() {
  const text = JSON.stringify(header);
  if (text === headerFor) return;
  headerFor = text;
  const { counts } = header;
  document.title = `${header.state === "running" ? `${counts.done}/${counts.total} ` : ""}${header.name} – batchflux`;
  byId("header").replaceChildren();
  fill(byId("header"), null, [
    h(
      "div",
      { class: "title" },
      h("h1", null, h("bdi", null, header.name)),
      h("span", { class: `state ${header.state}` }, STATES[header.state] ?? header.state),
      header.started_at && h("span", { class: "state" }, span()),
      !setup.live &&
        header.state === "running" &&
        h("span", { class: "state" }, `as it was on ${when(header.made_at)}`),
    ),
    header.message && h("p", { class: "message" }, header.message),
    progressBar(counts),
    figureList("In all", totals()),
    figureList(header.state === "running" ? "This run" : "Last run", lastRun()),
    failuresList(),
  ]);
}

// From when to when the last run was, as far as it is known.
function span() {
  const end = header.state === "running" ? "now" : header.finished_at && when(header.finished_at);
  return end ? `${when(header.started_at)} – ${end}` : `began ${when(header.started_at)}`;
}

function figureList(title, figures) {
  if (!figures.length) return null;
  return h(
    "div",
    { class: "figures", role: "group", "aria-label": title },
    h("span", { class: "of" }, title),
    h(
      "dl",
      null,
      figures.map(([label, value, small]) =>
        h(
          "div",
          { class: "figure" },
          h("dt", null, label),
          h("dd", null, value, small && h("small", null, ` ${small}`)),
        ),
      ),
    ),
  );
}

function totals() {
  const { counts } = header;
  const list = [["Pictures", whole.format(counts.done), `of ${whole.format(counts.total)}`]];
  if (counts.failed) list.push(["Failed", whole.format(counts.failed)]);
  if (counts.unknown) list.push(["Unknown", whole.format(counts.unknown)]);
  if (counts.pending)
    list.push([
      "To do",
      whole.format(counts.pending),
      counts.in_flight ? `${whole.format(counts.in_flight)} under way` : null,
    ]);
  const maybe = Number(header.spent_possibly) ? `, ${money(header.spent_possibly, "")} of it possibly` : "";
  const budget = header.budget === null ? "" : ` of ${money(header.budget, "")}`;
  list.push(["Spent", money(header.spent, ""), `${header.currency}${budget}${maybe}`]);
  list.push([
    "Attempts",
    whole.format(header.attempts),
    header.possibly_billed ? `${whole.format(header.possibly_billed)} possibly billed` : null,
  ]);
  return list;
}

function lastRun() {
  const list = [];
  const made = header.this_run;
  if (made) {
    const others = ["failed", "unknown"].filter((name) => made[name]).map((name) => `${whole.format(made[name])} ${name}`);
    list.push(["Made", whole.format(made.done), others.join(", ") || null]);
  }
  if (header.spent_this_run != null) list.push(["Cost", money(header.spent_this_run, ""), header.currency]);
  if (header.seconds !== null) list.push(["Time", duration(header.seconds)]);
  if (header.images_per_minute) list.push(["Images per minute", one.format(header.images_per_minute)]);
  return list;
}

function progressBar(counts) {
  const bar = h("div", {
    class: "progress",
    role: "img",
    "aria-label": `${counts.done} of ${counts.total} done, ${counts.failed} failed, ${counts.unknown} unknown`,
  });
  for (const name of ["done", "failed", "unknown"]) {
    const part = h("i", { class: name });
    part.style.width = `${(100 * counts[name]) / Math.max(1, counts.total)}%`;
    bar.append(part);
  }
  return bar;
}

function failuresList() {
  const codes = Object.entries(header.failures);
  if (!codes.length) return null;
  return h(
    "div",
    { class: "failures", role: "group", "aria-label": "Failures by code" },
    h("span", null, "Failures by code"),
    codes.map(([code, count]) =>
      h(
        "button",
        { type: "button", title: `Show ${code} only`, onclick: () => change({ view: "gallery", status: "", code }) },
        `${code} `,
        h("b", null, whole.format(count)),
      ),
    ),
  );
}
