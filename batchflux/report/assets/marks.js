// What stands on a picture wherever it is shown small: its verdict, its fault, and the button that selects it.
import { h, picture } from "./dom.js";
import { picked } from "./selection.js";
import { columns, setup } from "./store.js";
import { called, say } from "./words.js";

const REVIEW_MARKS = { __proto__: null, accept: "✓", reject: "✕", redo: "↻" };
const REVIEW_TONES = { __proto__: null, accept: "good", reject: "bad", redo: "unsure" };

export const thumbOf = (row, lost) =>
  picture(
    columns.thumb[row],
    { alt: columns.prompt[row] || columns.id[row], decoding: "async", draggable: "false" },
    lost,
  );

export const nothing = (title, note, tone = null) => h("div", { class: "nothing" }, h("b", { class: tone }, title), note);

// The small picture, or why there is none.
export function thumbOrWhy(row) {
  const lost = () => nothing(say.noPreview, say.missing);
  if (columns.thumb[row]) return thumbOf(row, lost);
  if (columns.status[row] === "done") return lost();
  const failed = columns.status[row] === "failed";
  return nothing(failed ? say.failedMark : say.unknownMark, columns.error_code[row] ?? "", failed ? "bad" : "unsure");
}

// The badge of a verdict, or of a fault that left a picture; null without either.
export function badgeOf(row) {
  const review = columns.review[row];
  const status = columns.status[row];
  if (review) {
    const word = h("span", { class: "word" }, ` ${called(say.reviews, review)}`);
    return h("span", { class: `badge ${REVIEW_TONES[review] ?? ""}` }, REVIEW_MARKS[review] ?? "", word);
  }
  if (!columns.thumb[row] || status === "done") return null;
  return h("span", { class: "badge bad" }, `✕ ${columns.error_code[row] ?? called(say.statuses, status)}`);
}

export const pickButton = (row) =>
  setup.live &&
  h(
    "button",
    { type: "button", class: "pick", tabindex: "-1", "aria-label": say.select(columns.id[row]), "aria-pressed": String(picked.has(row)) },
    picked.has(row) ? "✓" : "",
  );

// Show on a tile whether it is selected.
export function showPicked(node, row) {
  const button = node.querySelector(".pick");
  if (!button) return;
  button.textContent = picked.has(row) ? "✓" : "";
  button.setAttribute("aria-pressed", String(picked.has(row)));
}
