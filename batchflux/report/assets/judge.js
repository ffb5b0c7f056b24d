// Verdicts: accept, reject, redo, pick, with a note; on the picture that is open, the current one, or all selected ones.
import { byId, control, focusIn, h, segment, tell } from "./dom.js";
import { siblingsOf } from "./fields.js";
import { changedNote, noteField, openNote } from "./notes.js";
import { openRedo } from "./redo.js";
import { compared, judged, large, openCompare, openLarge, picked, placeOf, pickNone, shownPicks } from "./selection.js";
import { set, settings } from "./settings.js";
import { ofPictures } from "./state.js";
import { columns, presentRows } from "./store.js";
import { judge, undoButton } from "./verdicts.js";
import { following, goTo } from "./view.js";
import { say } from "./words.js";

export const VERDICTS = [
  ["accept", `✓ ${say.accept}`, "a"],
  ["reject", `✕ ${say.reject}`, "r"],
  ["redo", `↻ ${say.redo}…`, "e"],
  ["", say.clear, "u"],
];

export function verdictKey(review) {
  const rows = judged();
  if (!rows.length) {
    tellHidden();
    return "";
  }
  if (review === "redo") return openRedo(rows, onward(rows[0]));
  const goOn = onward(rows[0], { says: say.judgedOne(columns.id[rows[0]], review) });
  const sent = judge(rows, review, { note: noteOf(rows) });
  if (review) goOn();
  return sent;
}

const noteOf = (rows) => (large !== null && rows[0] === large ? changedNote(large) : null);

// Pick: accept these, reject their siblings. A job without a picture is no sibling: nobody has seen what will come of it.
export function pickKey() {
  const rows = judged().filter((row) => columns.status[row] === "done");
  if (!rows.length) {
    if (picked.size && !shownPicks().length) tellHidden();
    else tell(say.nothingToPick);
    return;
  }
  const siblings = siblingsAmong(rows);
  const said = rows.length === 1 ? columns.id[rows[0]] : say.pictures(rows.length);
  const hidden = siblings.filter((row) => !placeOf.has(row)).length;
  judge(rows, "accept", { note: noteOf(rows), siblings }).then((why) => {
    if (!why) tell(say.pickedSome(said, siblings.length, hidden), { action: undoButton() });
  });
  onward(rows[0], { pastSiblings: true })();
}

// The pictures of the same prompt and references as these, without these.
function siblingsAmong(rows) {
  const groups = new Set(rows.map(siblingsOf));
  const prompts = new Set(rows.map((row) => columns.prompt[row])); // quick to compare, and most are of others
  const own = new Set(rows);
  return presentRows().filter(
    (row) =>
      prompts.has(columns.prompt[row]) && columns.status[row] === "done" && !own.has(row) && groups.has(siblingsOf(row)),
  );
}

// What follows a verdict on one picture: the next one, unless that is turned off. `says` tells what is out of sight then.
function onward(row, { says = "", pastSiblings = false } = {}) {
  const stays = !settings.advance || compared.length || (large === null && picked.size) || !placeOf.has(row);
  const next = stays ? undefined : following(row, pastSiblings);
  return () => {
    if (next === undefined) return;
    if (large === null) return goTo(next);
    openLarge(next, false);
    if (says) tell(says, { action: undoButton() });
  };
}

export function verdictSection(row, all) {
  return h(
    "section",
    { class: "verdict" },
    h("h3", { class: "unseen" }, say.verdict),
    h(
      "div",
      { class: "segments", role: "group", "aria-label": say.verdict },
      VERDICTS.filter(([review]) => review).map(([review, label, key]) =>
        segment([label, keyMark(key)], all.review === review, () => verdictKey(review), {
          "data-for": `verdict-${review}`,
          title: say.means[review],
        }),
      ),
    ),
    h(
      "div",
      { class: "pick-line" },
      h("button", { type: "button", "data-for": "pick", title: say.means.pick, onclick: pickKey }, `★ ${say.pick}`, keyMark("p")),
      h("small", null, say.siblings(siblingsAmong([row]).length)),
    ),
    all.reviewer && h("p", { class: "by" }, say.by(all.reviewer)),
    noteField(row, all.note ?? ""),
    all.review &&
      h(
        "button",
        { type: "button", class: "plain clear", "data-for": "verdict-", onclick: () => verdictKey("") },
        say.clearVerdict,
        keyMark("u"),
      ),
    meanings(),
  );
}

const keyMark = (key) => settings.singleKeys && [" ", h("kbd", { "aria-hidden": "true" }, key.toUpperCase())];

// What the buttons do stands where they are.
const meanings = () =>
  h(
    "details",
    { class: "means", open: settings.reading, ontoggle: ({ target }) => target.open !== settings.reading && set({ reading: target.open }) },
    h("summary", { "data-for": "means" }, say.meansTitle),
    [say.means.reject, say.means.redo, say.means.pick].map((words) => h("p", null, words)),
  );

// The bar for a selection; gallery and contact sheet are where one is made and seen.
let barFor = "";
export function showJudging() {
  const host = byId("judging");
  const shown = !ofPictures() ? 0 : shownPicks().length;
  const hidden = picked.size - shown;
  const wanted = picked.size === 0 || !ofPictures() ? "" : `${shown} ${hidden} ${settings.singleKeys}`;
  if (wanted === barFor) return;
  barFor = wanted;
  const focused = focusIn(host)?.dataset.for;
  host.hidden = wanted === "";
  host.replaceChildren(...(wanted ? barParts(shown, hidden) : []));
  placeNews();
  if (focused) (control(host, focused, ":not(:disabled)") ?? byId("gallery")).focus();
}

function barParts(shown, hidden) {
  const button = (name, label, key, onclick, props) =>
    h("button", { type: "button", "data-for": `bar-${name}`, onclick, ...props }, label, key.length > 1 ? [" ", h("kbd", { "aria-hidden": "true" }, key)] : keyMark(key));
  const disabled = shown === 0;
  return [
    h("b", null, say.selected(shown + hidden, hidden)),
    ...VERDICTS.map(([review, label, key]) =>
      button(review, label, key, () => verdictKey(review), { disabled, title: say.means[review] }),
    ),
    button("pick", `★ ${say.pick}`, "p", pickKey, { disabled, title: say.means.pick }),
    button("compare", `${say.compare}…`, "c", () => openCompare(shownPicks()), {
      disabled: shown < 2 || shown > 4,
      title: say.means.compare,
    }),
    button("note", `${say.note}…`, "n", () => openNote(shownPicks()), { disabled }),
    button("deselect", say.deselect, "Esc", pickNone, { class: "plain" }),
    h("small", { class: "means" }, `${say.means.reject} ${say.means.redo}`),
  ];
}

// What the server and the keys say in passing stands above the bar, not on it.
export const placeNews = () => document.documentElement.style.setProperty("--judging", `${byId("judging").offsetHeight}px`);

export function tellHidden() {
  if (picked.size) tell(say.allHidden);
}
