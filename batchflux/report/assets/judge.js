// Verdicts: accept, reject, redo, with a note; on the picture that is open, the current one, or all selected ones.
import { byId, control, focusIn, h, segment, tell } from "./dom.js";
import { changedNote, noteField, openForm, openNote } from "./notes.js";
import { judged, large, picked, pickNone, shownPicks } from "./selection.js";
import { state } from "./state.js";
import { columns } from "./store.js";
import { judge } from "./verdicts.js";
import { plural, whole } from "./words.js";

export const VERDICTS = [
  ["accept", "✓ Accept", "a"],
  ["reject", "✕ Reject", "r"],
  ["redo", "↻ Redo…", "e"],
  ["", "Clear", "u"],
];

export function verdictKey(review) {
  const rows = judged();
  if (!rows.length) {
    tellHidden();
    return "";
  }
  if (review === "redo") return openRedo(rows);
  return judge(rows, review, { note: large !== null ? changedNote(large) : null });
}

export function verdictSection(row, all) {
  return h(
    "section",
    { class: "verdict" },
    h("h3", { class: "unseen" }, "Verdict"),
    h(
      "div",
      { class: "segments", role: "group", "aria-label": "Verdict" },
      VERDICTS.filter(([review]) => review).map(([review, label, key]) =>
        segment(
          [label, " ", h("kbd", { "aria-hidden": "true" }, key.toUpperCase())],
          all.review === review,
          () => verdictKey(review),
          { "data-for": `verdict-${review}` },
        ),
      ),
    ),
    noteField(row, all.note ?? ""),
    all.review &&
      h(
        "button",
        { type: "button", class: "plain clear", "data-for": "verdict-", onclick: () => verdictKey("") },
        "Clear the verdict ",
        h("kbd", { "aria-hidden": "true" }, "U"),
      ),
  );
}

// The bar for a selection; the gallery is where one is made and seen.
let barFor = "";
export function showJudging() {
  const host = byId("judging");
  const shown = state.view === "gallery" ? shownPicks().length : 0;
  const hidden = picked.size - shown;
  const wanted = picked.size === 0 || state.view !== "gallery" ? "" : `${shown} ${hidden}`;
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
    h(
      "button",
      { type: "button", "data-for": `bar-${name}`, onclick, ...props },
      label,
      " ",
      h("kbd", { "aria-hidden": "true" }, key),
    );
  const count = `${whole.format(shown + hidden)} selected${hidden ? `, ${whole.format(hidden)} hidden by filters` : ""}`;
  return [
    h("b", null, count),
    ...VERDICTS.map(([review, label, key]) =>
      button(review, label, key.toUpperCase(), () => verdictKey(review), { disabled: shown === 0 }),
    ),
    button("note", "Note…", "N", () => openNote(shownPicks()), { disabled: shown === 0 }),
    button("deselect", "Deselect", "Esc", pickNone, { class: "plain" }),
  ];
}

// What the server and the keys say in passing stands above the bar, not on it.
export const placeNews = () => document.documentElement.style.setProperty("--judging", `${byId("judging").offsetHeight}px`);

// What to make anew: the prompt may be edited and a seed given for one picture; for several only the note is asked.
function openRedo(rows) {
  if (!rows.length) return;
  const single = rows.length === 1 ? rows[0] : null;
  const before = single === null ? "" : columns.prompt[single];
  const prompt = h("textarea", { id: "redo-prompt", rows: "5", dir: "auto", value: before });
  const seed = h("input", { id: "redo-seed", type: "number", step: "1", min: "0", placeholder: "chosen anew" });
  const note = h("textarea", {
    id: "redo-note",
    rows: "2",
    dir: "auto",
    value: single === null ? "" : (byId("note")?.value ?? columns.note[single] ?? ""),
  });
  const send = () => {
    const edited = single !== null && prompt.value.trim() !== "" && prompt.value !== before ? prompt.value : null;
    const redo = { prompt: edited, seed: seed.value === "" ? null : Number(seed.value) };
    return judge(rows, "redo", { note: note.value === "" && single === null ? null : note.value, redo });
  };
  const seeded = single !== null && columns.style[single] !== "chat"; // which carries no seed
  openForm(
    byId("redo"),
    "Redo",
    send,
    single === null ? `Redo ${plural(rows.length, "picture")}` : "Redo this picture",
    h("p", { class: "hint" }, "The next batchflux run makes a new variant; this picture stays."),
    single !== null && [h("label", { for: "redo-prompt" }, "Prompt"), prompt],
    seeded && [h("label", { for: "redo-seed" }, "Seed"), seed],
    h("label", { for: "redo-note" }, "Note"),
    note,
  );
  (single === null ? note : prompt).focus();
}

export function tellHidden() {
  if (picked.size) tell("All selected pictures are hidden by filters; Esc deselects them.");
}
