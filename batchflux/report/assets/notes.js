// Notes. What is typed is kept without a word said: after a pause, when the field is left, and when the page is.
import { byId, control, h, tell } from "./dom.js";
import { takeRows } from "./live.js";
import { columns, rowOfKey } from "./store.js";
import { inTurn, sendAll, sendVerdict, verdictOf, whyNot } from "./verdicts.js";
import { say } from "./words.js";

const PAUSE = 700; // milliseconds without a key
let draft = null; // {key, node}: the note that is being written
let draftTimer = 0;

// The note as typed, null when it is as it was.
export function changedNote(row) {
  const typed = byId("note")?.value;
  return typed === undefined || typed === (columns.note[row] ?? "") ? null : typed;
}

export function noteField(row, note) {
  const key = columns.key[row];
  const node = h("textarea", {
    id: "note",
    "data-for": "note",
    rows: "2",
    "aria-label": say.note,
    placeholder: say.noteHint,
    dir: "auto",
    value: draft?.key === key ? draft.node.value : note,
    oninput: () => {
      draft = { key, node };
      clearTimeout(draftTimer);
      draftTimer = setTimeout(saveNote, PAUSE);
    },
    onchange: () => saveNote(),
    onkeydown: (event) => {
      if (!sends(event)) return;
      event.preventDefault();
      saveNote();
      control(byId("large"), "close").focus();
    },
  });
  return node;
}

// Ctrl (or Cmd) and Enter, which send what is written.
const sends = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey);

function submitKey(event) {
  if (!sends(event)) return;
  event.preventDefault();
  event.currentTarget.requestSubmit();
}

// What of the draft is not kept yet, as the body of a verdict that changes the note only; null when nothing.
function unsaved() {
  const row = draft === null ? undefined : rowOfKey.get(draft.key);
  if (row === undefined || draft.node.value === (columns.note[row] ?? "")) {
    draft = null; // kept: a change from elsewhere may replace it now
    return null;
  }
  return { keys: [draft.key], review: verdictOf(row), note: draft.node.value, redo: null };
}

export function saveNote() {
  clearTimeout(draftTimer);
  const first = unsaved();
  if (first === null) return;
  const { node } = draft;
  inTurn(async () => {
    const row = rowOfKey.get(first.keys[0]);
    if (row === undefined || node.value === (columns.note[row] ?? "")) return; // a verdict took it along
    await sendAll(first.keys, { review: verdictOf(row), note: node.value, redo: null });
    if (draft?.node === node) unsaved();
  });
}

// The page is hidden, left or closed, perhaps for ever: what is written goes out at once.
async function saveLast() {
  const body = unsaved();
  if (body === null) return;
  try {
    takeRows((await sendVerdict(body, { keepalive: true })).rows);
  } catch (error) {
    tell(whyNot(error), { bad: true });
  }
}

export function watchLeaving() {
  addEventListener("pagehide", saveLast);
  document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && saveLast());
}

// A dialog with a form: `send` does what it is for and returns what went wrong; it closes when nothing did.
export function openForm(dialog, label, send, title, ...fields) {
  const fault = h("div", { role: "alert" });
  const button = h("button", { type: "submit", class: "main-action" }, label);
  const onsubmit = async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    const why = await send();
    button.disabled = false;
    if (why) fault.replaceChildren(h("p", { class: "error" }, why));
    else dialog.close();
  };
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, say.cancel);
  dialog.replaceChildren(
    h(
      "form",
      { method: "dialog", onsubmit, onkeydown: submitKey },
      h("h2", { id: `${dialog.id}-title` }, title),
      ...fields,
      fault,
      h("div", { class: "actions" }, cancel, button),
    ),
  );
  dialog.showModal();
}

// One note for all of a selection; their verdicts stay as they are.
export function openNote(rows) {
  if (!rows.length) return;
  const notes = new Set(rows.map((row) => columns.note[row] ?? ""));
  const before = notes.size === 1 ? [...notes][0] : "";
  const note = h("textarea", { id: "noting-note", rows: "3", dir: "auto", value: before });
  const send = () => (note.value === before ? "" : noteAll(rows, note.value));
  const hint =
    notes.size > 1 ? say.notesDiffer : "";
  openForm(
    byId("noting"),
    say.save,
    send,
    say.noteOn(rows.length),
    h("p", { class: "hint" }, `${say.verdictStays(rows.length)} ${hint}`),
    h("label", { for: "noting-note" }, say.note),
    note,
  );
  note.focus();
}

// A note is sent together with the verdict that a picture has: one group after the other. Returns what went wrong.
function noteAll(rows, note) {
  const wanted = rows.map((row) => columns.key[row]);
  return inTurn(async () => {
    const groups = new Map();
    for (const key of wanted) {
      const row = rowOfKey.get(key);
      if (row === undefined) continue;
      const review = columns.review[row] ?? "";
      if (groups.has(review)) groups.get(review).push(key);
      else groups.set(review, [key]);
    }
    for (const [review, keys] of groups) {
      const why = await sendAll(keys, { review, note, redo: null });
      if (why) return why;
    }
    return "";
  });
}
