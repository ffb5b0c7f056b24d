// One picture, large: with its references, all fields of its row, and (live) its verdict.
import { byId, control, focusIn, h, lostImages, picture, segment } from "./dom.js";
import { nothing } from "./marks.js";
import { saveNote } from "./notes.js";
import { panel } from "./panel.js";
import { large, openLarge, placeOf, setLarge, shownRows } from "./selection.js";
import { change, state } from "./state.js";
import { columns, details, rowOfId, setup, versions } from "./store.js";
import { focusView, setCurrent } from "./view.js";
import { called, say, whole } from "./words.js";

export const MODES = [
  ["picture", say.modes.picture, "1"],
  ["beside", say.modes.beside, "2"],
  ["slider", say.modes.slider, "3"],
];
let largeAt = 0; // where it is, or was last, among those shown
let shownVersion = 0;
let shownMode = "";
let shownRow = null; // whose fields stand there; behind `large` while these are unpacked
export let noteAwaited = false; // the note gets the focus as soon as it stands there
let farewells = 0; // events of closing that are still to come, of dialogs that are done with

export function startLarge() {
  const dialog = byId("large");
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closeLarge();
  });
  dialog.addEventListener("close", () => {
    if (farewells) farewells--;
    else closed();
  });
}

// The event of closing comes some tasks later: a key pressed meanwhile would find the picture still open, and lose the
// focus it asked for. So whoever closes does all of it at once, and the event is for the browser's own closing.
export function closeLarge() {
  const dialog = byId("large");
  if (dialog.open) farewells++;
  dialog.close();
  closed();
}

function closed() {
  const dialog = byId("large");
  if (large === null) return;
  setLarge(null);
  shownRow = null;
  noteAwaited = false;
  if (state.open) change({ open: "" });
  if (setup.live) saveNote();
  dialog.replaceChildren();
  focusView();
}

// Bring the dialog in line with the URL.
export function followOpen() {
  const dialog = byId("large");
  const row = state.open === "" ? undefined : rowOfId.get(state.open);
  if (row === undefined) {
    closeLarge();
    return;
  }
  if (placeOf.has(row)) largeAt = placeOf.get(row);
  const same = dialog.open && large === row && shownMode === state.mode;
  const changed = shownVersion !== versions[row];
  setLarge(row);
  shownVersion = versions[row];
  shownMode = state.mode;
  if (!same) {
    if (placeOf.has(row)) setCurrent(row, { reveal: state.view === "gallery" });
    showLarge(row);
  } else if (shownRow === row) {
    if (changed) showPanel(row);
    else showPlace();
  } // else it is still to be drawn, as it is by then
}

// The pictures before and after; they are there also when this one's verdict has taken it out of the filter.
const neighbours = () => [shownRows[largeAt - 1], shownRows[placeOf.has(large) ? largeAt + 1 : largeAt]];

function showPlace() {
  const dialog = byId("large");
  const [before, after] = neighbours();
  dialog.querySelector(".where").textContent = placeText(large);
  control(dialog, "previous").disabled = before === undefined;
  control(dialog, "next").disabled = after === undefined;
}

// A change of the row (a verdict, here or elsewhere) leaves the pictures alone, and what is being written.
async function showPanel(row) {
  const all = await details(row);
  const old = byId("large").querySelector(".panel");
  if (large !== row || !old) return;
  const { scrollTop } = old;
  const focused = focusIn(old);
  const written = focused?.id === "note" ? focused : null;
  const fresh = panel(row, all);
  if (written) fresh.querySelector("#note").replaceWith(written);
  old.replaceWith(fresh);
  fresh.scrollTop = scrollTop;
  (written ?? (focused && control(fresh, focused.dataset.for ?? "")))?.focus({
    preventScroll: true,
  });
  if (focused && !fresh.contains(document.activeElement)) control(byId("large"), "close").focus();
  showPlace();
}

const placeText = (row) =>
  placeOf.has(row)
    ? say.place(whole.format(placeOf.get(row) + 1), whole.format(shownRows.length))
    : say.notShown;

async function showLarge(row) {
  const dialog = byId("large");
  dialog.setAttribute("aria-label", say.picture(columns.id[row]));
  if (!dialog.open) dialog.showModal(); // at once: a form that is opened meanwhile lies above, and Escape is for this
  const all = await details(row);
  if (large !== row) return;
  const kept = noteAwaited ? "note" : focusIn(dialog)?.dataset.for;
  if (setup.live) saveNote(); // of the picture that was open
  const modes = modesOf(all);
  const could = modes.map(([name]) => name);
  const mode = [state.mode, "beside"].find((name) => could.includes(name) && state.mode !== "picture") ?? "picture";
  dialog.replaceChildren(
    h(
      "div",
      { class: "whole" },
      largeTop(row, modes, mode),
      h("div", { class: "stage" }, stage(row, all, mode)),
      panel(row, all),
    ),
  );
  showPlace();
  const close = control(dialog, "close");
  (control(dialog, kept || "close", ":not(:disabled)") ?? close).focus({
    preventScroll: true,
  });
  shownRow = row;
  noteAwaited = false;
  nearby(row);
}

// Pictures before and after are fetched ahead, so that the arrows show them at once.
async function nearby(row) {
  for (const next of neighbours().reverse()) {
    if (next === undefined) continue;
    const { full } = await details(next);
    if (full && large === row) picture(full, {}, () => null);
  }
}

const seenReferences = (all) => all.references.filter(({ src }) => src);

function modesOf(all) {
  const references = seenReferences(all);
  const pair = references.length === 1 ? [all.full, references[0].src] : [];
  const could = {
    picture: true,
    beside: references.length > 0,
    slider: pair.length === 2 && pair.every((src) => src && !lostImages.has(src)),
  };
  return MODES.filter(([name]) => could[name]);
}

function largeTop(row, modes, mode) {
  const button = (name, sign, label, onclick, key) =>
    h(
      "button",
      {
        type: "button",
        "data-for": name,
        onclick,
        title: `${label} (${key})`,
        "aria-label": label,
      },
      `${sign} `,
      h("span", { class: "word" }, label),
    );
  return h(
    "div",
    { class: "top" },
    h("h2", null, h("bdi", null, columns.id[row])),
    h("span", { class: "where" }, placeText(row)),
    modes.length > 1 &&
      h(
        "div",
        { class: "segments", role: "group", "aria-label": say.modesName },
        modes.map(([name, label, key]) =>
          segment(label, name === mode, () => setMode(name), {
            "data-for": `mode-${name}`,
            title: `${label} (${key})`,
          }),
        ),
      ),
    h("span", { class: "spring" }),
    button("previous", "‹", say.previous, () => step(-1), "←"),
    button("next", "›", say.next, () => step(1), "→"),
    button("close", "✕", say.close, closeLarge, "Esc"),
  );
}

export async function setMode(name) {
  const row = large;
  const modes = modesOf(await details(row));
  if (large === row && modes.some(([mode]) => mode === name)) change({ mode: name });
}

export function step(by) {
  const next = neighbours()[by < 0 ? 0 : 1];
  if (next !== undefined) openLarge(next, false);
}

// The references stand there also where no picture came of them: they may be why.
function stage(row, all, mode) {
  const references = mode === "picture" ? [] : seenReferences(all);
  if (mode === "slider") return beforeAfter(references[0], row, all.full);
  const [src] = [all.full, all.thumb].filter((one) => one && !lostImages.has(one));
  const intact = src === all.full;
  const size = all.width && `${all.width} × ${all.height}`;
  const apart = !intact && all.mirror; // in the bucket, which this page has no link to
  const said = intact ? size : apart ? say.inMirror : say.previewOnly;
  const notes = [said, apart || all.file_name];
  const shown = src
    ? figure(src, columns.prompt[row] || all.id, notes.filter(Boolean).join(" · "), intact ? src : null, all.mirror && say.bucketAway)
    : missing(all);
  if (!references.length) return shown;
  return h(
    "div",
    { class: "beside" },
    references.map(({ src, label }) => figure(src, say.referenceAlt(label), say.referenceCaption(label))),
    shown,
  );
}

function missing(all) {
  const done = all.status === "done";
  if (all.mirror) return nothing(say.inMirror, h("span", null, all.mirror));
  return nothing(
    done
      ? say.fileMissing
      : `${called(say.statuses, all.status)}: ${all.error_code ?? say.noPictureCode}`,
    h(
      "span",
      null,
      done ? say.bringsBack(all.file_name ?? "") : (all.error ?? ""),
    ),
  );
}

function figure(src, alt, caption, link = null, why = null) {
  return h(
    "figure",
    null,
    h("figcaption", null, link ? h("a", { href: link, target: "_blank", rel: "noopener" }, caption) : caption),
    picture(src, { alt, decoding: "async" }, () => nothing(say.noPicture, why || say.noPictureWhy)),
  );
}

// Before and after in one place: the reference lies under the picture, and a range moves the edge between them.
function beforeAfter(reference, row, full) {
  const pair = h("div", { class: "pair" });
  const range = h("input", {
    type: "range",
    id: "slider",
    min: "0",
    max: "100",
    step: "1",
    "aria-label": say.edge,
    oninput: () => {
      pair.style.setProperty("--at", `${range.value}%`);
      range.setAttribute("aria-valuetext", say.edgeAt(range.value));
    },
  });
  range.value = "50";
  // Without one of the two there is no edge: the large view falls back to showing them side by side.
  const lost = () => {
    if (large === row && state.open !== "") showLarge(row);
    return null;
  };
  pair.append(
    picture(reference.src, { class: "before", alt: say.referenceAlt(reference.label), draggable: "false" }, lost),
    picture(full, { class: "after", alt: columns.prompt[row] || columns.id[row], draggable: "false" }, lost),
    h("div", { class: "rule", "aria-hidden": "true" }),
    range,
  );
  return h(
    "div",
    { class: "slider" },
    pair,
    h("div", { class: "ends" }, h("span", null, say.reference), h("span", null, say.thePicture)),
  );
}

export function focusNote() {
  noteAwaited = shownRow !== large;
  if (!noteAwaited) byId("note")?.focus();
}
