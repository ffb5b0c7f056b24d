// The keys, as a dialog lists them.
import { byId, h } from "./dom.js";
import { setup } from "./store.js";

const KEYS = [
  ["← → ↑ ↓", "move; in the large view: previous, next"],
  ["Space, Enter", "open a picture, close it"],
  ["Home, End", "first, last picture"],
  ["1 2 3", "picture, beside its reference, slider"],
  ["/", "search"],
  ["G S C", "gallery, contact sheet, charts"],
  ["+ −", "larger, smaller pictures"],
  ["Esc", "close, deselect"],
  ["?", "these keys"],
];
const JUDGE_KEYS = [
  ["A R E", "accept, reject, redo"],
  ["U", "clear the verdict"],
  ["N", "write a note, on all selected ones too"],
  ["Ctrl + Enter", "keep what is written"],
  ["X", "select the picture"],
  ["Shift + ← →", "select a range"],
  ["Ctrl + A", "select all that are shown"],
];

export function openHelp() {
  const dialog = byId("help");
  const list = (keys) =>
    h(
      "dl",
      { class: "key-list" },
      keys.map(([key, says]) => [h("dt", null, h("kbd", null, key)), h("dd", null, says)]),
    );
  dialog.replaceChildren(
    h("h2", { id: "help-title" }, "Keys"),
    list(setup.live ? [...KEYS, ...JUDGE_KEYS] : KEYS),
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", class: "main-action", onclick: () => dialog.close() }, "Close"),
    ),
  );
  dialog.showModal();
}
