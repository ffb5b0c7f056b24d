// The header: what the run is, how it stands, what it cost. It is built anew when the server says that it changed.
import { byId, fill, h } from "./dom.js";
import { change } from "./state.js";
import { header, setup } from "./store.js";
import { called, duration, money, one, say, when, whole } from "./words.js";

let headerFor = "";
const VERDICT_ORDER = ["accept", "reject", "redo"];

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
      h("span", { class: `state ${header.state}` }, called(say.states, header.state)),
      header.started_at && h("span", { class: "state" }, span()),
      !setup.live &&
        header.state === "running" &&
        h("span", { class: "state" }, say.asItWas(when(header.made_at))),
      h("span", { class: "spring" }),
      languageLink(),
    ),
    message() && h("p", { class: "message" }, message()),
    header.links_until && h("p", { class: "message" }, say.linksUntil(when(header.links_until))),
    progressBar(counts),
    h(
      "div",
      { class: "groups" },
      figureList(say.inAll, totals()),
      figureList(header.state === "running" ? say.thisRun : say.lastRun, lastRun()),
      figureList(say.providersTitle, spentWhere()),
      figureList(say.provenanceTitle, provenance()),
      figureList(say.verdictsTitle, judgedSoFar()),
    ),
    failuresList(),
  ]);
}

// The same page in the other language, with what is looked at.
export function languageLink() {
  const [language, name] = say.other;
  const go = () => {
    const address = new URL(location.href);
    address.searchParams.set("lang", language);
    location.assign(address);
  };
  return h("button", { type: "button", class: "plain language", lang: language, onclick: go }, name);
}

// From when to when the last run was, as far as it is known.
function span() {
  const end = header.state === "running" ? say.now : header.finished_at && when(header.finished_at);
  return end ? `${when(header.started_at)} – ${end}` : say.began(when(header.started_at));
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
  const list = [[say.picturesTitle, whole.format(counts.done), say.of(whole.format(counts.total))]];
  if (counts.failed) list.push([say.statuses.failed, whole.format(counts.failed)]);
  if (counts.unknown) list.push([say.statuses.unknown, whole.format(counts.unknown)]);
  if (counts.pending)
    list.push([
      say.toDo,
      whole.format(counts.pending),
      counts.in_flight ? say.underWay(whole.format(counts.in_flight)) : null,
    ]);
  const batches = Object.values(header.batches ?? {});
  if (batches.length) {
    const [jobs, back] = ["jobs", "back"].map((name) => batches.reduce((sum, one) => sum + one[name], 0));
    list.push([say.openBatches, whole.format(batches.length), say.backOf(whole.format(back), whole.format(jobs))]);
  }
  const maybe = Number(header.spent_possibly) ? say.possibly(money(header.spent_possibly, "")) : "";
  const budget = header.budget === null ? "" : say.budgetOf(money(header.budget, ""));
  list.push([say.spent, money(header.spent, ""), `${header.currency}${budget}${maybe}`]);
  list.push([
    say.attempts,
    whole.format(header.attempts),
    header.possibly_billed ? say.possiblyBilled(whole.format(header.possibly_billed)) : null,
  ]);
  return list;
}

// What each provider came to, where there is more to say of it than of all together.
function spentWhere() {
  const made = Object.entries(header.providers ?? {});
  if (made.length < 2 && !made.some(([, { refused }]) => refused)) return [];
  return made.map(([name, { done, spent, refused }]) => [
    h("bdi", null, name),
    money(spent, ""),
    `${header.currency} · ${say.pictures(done)}${refused ? ` · ${say.refusedMany(whole.format(refused))}` : ""}`,
  ]);
}

function lastRun() {
  const list = [];
  const made = header.this_run;
  if (made) {
    const others = ["failed", "unknown"].filter((name) => made[name]).map((name) => say.others[name](whole.format(made[name])));
    list.push([say.made, whole.format(made.done), others.join(", ") || null]);
  }
  if (header.spent_this_run != null) list.push([say.cost, money(header.spent_this_run, ""), header.currency]);
  if (header.seconds !== null) list.push([say.time, duration(header.seconds)]);
  if (header.images_per_minute) list.push([say.perMinute, one.format(header.images_per_minute)]);
  return list;
}

// What the pictures themselves say of their origin.
function provenance() {
  return Object.entries(header.carries ?? {}).map(([mark, count]) => [called(say.marks, mark), whole.format(count)]);
}

// Nothing before the first verdict: who only looks at pictures has none to count.
function judgedSoFar() {
  const given = header.verdicts ?? {};
  if (!setup.live && !Object.keys(given).length) return [];
  const list = VERDICT_ORDER.map((name) => [say.reviews[name], whole.format(given[name] ?? 0)]);
  return [...list, [say.reviews[""], whole.format(header.not_judged ?? 0)]];
}

// The run's own sentence is English; another language has one for each reason.
const message = () => endSays(header.state === "running" ? "waiting" : header.reason, header.message);

export function endSays(reason, sentence) {
  if (!sentence || !("other" in say.reasons)) return sentence;
  return Object.hasOwn(say.reasons, reason) ? say.reasons[reason] : say.reasons.other;
}

function progressBar(counts) {
  const bar = h("div", {
    class: "progress",
    role: "img",
    "aria-label": say.progress(counts),
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
    { class: "failures", role: "group", "aria-label": say.failures },
    h("span", null, say.failures),
    codes.map(([code, count]) =>
      h(
        "button",
        { type: "button", title: say.showCode(code), onclick: () => change({ view: "gallery", status: "", code }) },
        `${code} `,
        h("b", null, whole.format(count)),
      ),
    ),
  );
}
