// Two to four pictures side by side. One of them is chosen, and keys judge it.
import { byId, focusIn, h, lostImages, picture } from "./dom.js";
import { pickKey, VERDICTS, verdictKey } from "./judge.js";
import { badgeOf, nothing } from "./marks.js";
import { choose, chosen, compared, setCompared } from "./selection.js";
import { change, state } from "./state.js";
import { columns, details, rowOfId, setup, versions } from "./store.js";
import { focusView } from "./view.js";
import { say } from "./words.js";

const MOST = 4;
let comparedFor = "";
const images = new Map(); // row -> its picture, kept when a verdict changes what stands around it

export function startCompare() {
  byId("compare").addEventListener("cancel", (event) => {
    event.preventDefault();
    closeCompare();
  });
}

export function closeCompare() {
  if (state.compare) change({ compare: "" });
}

// Bring the dialog in line with the URL.
export function followCompare() {
  const dialog = byId("compare");
  const rows = state.compare.split("\n").map((id) => rowOfId.get(id)).filter((row) => row !== undefined).slice(0, MOST);
  if (rows.length < 2 || !setup.live) {
    if (!compared.length) return;
    dialog.close();
    setCompared([]);
    comparedFor = "";
    images.clear();
    dialog.replaceChildren();
    focusView();
    return;
  }
  if (!compared.length) choose(0);
  setCompared(rows);
  const now = JSON.stringify(rows.map((row) => [row, versions[row]]));
  if (now === comparedFor) return;
  comparedFor = now;
  buildSides(dialog, rows, now);
}

async function buildSides(dialog, rows, now) {
  if (!dialog.open) dialog.showModal(); // at once, as a picture is
  const all = await Promise.all(rows.map(details));
  if (comparedFor !== now) return;
  const focused = focusIn(dialog)?.dataset.for;
  const close = h(
    "button",
    { type: "button", "data-for": "close-compare", "aria-label": say.close, title: `${say.close} (Esc)`, onclick: closeCompare },
    "✕ ",
    h("span", { class: "word" }, say.close),
  );
  dialog.replaceChildren(
    h(
      "div",
      { class: "whole comparing" },
      h("div", { class: "top" }, h("h2", { id: "compare-title" }, say.comparing(rows.length)), close),
      h("div", { class: `sides of-${rows.length}` }, rows.map((row, place) => makeSide(row, place, all[place]))),
      h("p", { class: "means" }, `${say.means.pick} ${say.means.reject} ${say.means.redo}`),
    ),
  );
  const again = focused ? dialog.querySelector(`[data-for="${focused}"]`) : null;
  (again ?? dialog.querySelectorAll(".side")[chosen]).focus({ preventScroll: true });
  markChosen();
}

function makeSide(row, place, { full, thumb }) {
  const src = [full, thumb].find((one) => one && !lostImages.has(one));
  const lost = () => nothing(say.noPicture, columns.error_code[row] ?? say.noPictureWhy);
  const kept = images.get(row);
  const image = kept?.isConnected ? kept : src ? picture(src, { alt: columns.prompt[row] || columns.id[row] }, lost) : lost();
  images.set(row, image);
  const seed = columns.seed[row] === null ? null : say.seed(columns.seed[row]);
  const notes = [seed, columns.aspect_ratio[row], columns.model[row]].filter(Boolean).join(" · ");
  const button = (name, label, onclick, pressed) =>
    h(
      "button",
      { type: "button", "data-for": `${name}-${place}`, title: say.means[name], "aria-pressed": pressed, onclick: () => {
        choosePlace(place, { focus: false });
        onclick();
      } },
      label,
    );
  return h(
    "div",
    {
      class: "side",
      tabindex: "0",
      role: "group",
      "data-for": `side-${place}`,
      "aria-label": `${place + 1}: ${columns.id[row]}`,
      onfocusin: () => choosePlace(place, { focus: false }),
      onclick: () => choosePlace(place, { focus: false }),
    },
    h("div", { class: "side-name" }, h("kbd", { "aria-hidden": "true" }, String(place + 1)), h("b", null, h("bdi", null, columns.id[row])), badgeOf(row)),
    h("div", { class: "side-picture" }, image),
    h("small", null, notes),
    h(
      "div",
      { class: "side-verdicts" },
      button("pick", `★ ${say.pick}`, pickKey),
      VERDICTS.filter(([review]) => review).map(([review, label]) =>
        button(review, label, () => verdictKey(review), String(columns.review[row] === review)),
      ),
    ),
  );
}

function markChosen() {
  for (const [place, side] of byId("compare").querySelectorAll(".side").entries()) side.classList.toggle("chosen", place === chosen);
}

export function choosePlace(place, { focus = true } = {}) {
  if (place < 0 || place >= compared.length) return;
  choose(place);
  markChosen();
  if (focus) byId("compare").querySelectorAll(".side")[place]?.focus({ preventScroll: true });
}
