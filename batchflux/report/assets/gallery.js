// The gallery: all pictures that pass the filters, as lines of tiles, grouped or not. One tile is the current one.
import { barHeight, byId, fill, h, onNewWidth, picture } from "./dom.js";
import { field, grouped } from "./fields.js";
import { Lines } from "./lines.js";
import {
  current,
  leaving,
  onPicks,
  openLarge,
  pick,
  picked,
  pickTo,
  placeOf,
  setCurrentRow,
  setShown,
  shownRows,
} from "./selection.js";
import { state } from "./state.js";
import { columns, gone, setup, versions } from "./store.js";
import { plural, REVIEW_WORDS } from "./words.js";

const SIZES = { __proto__: null, s: 128, m: 190, l: 300 };
const SMALL_SIZES = { __proto__: null, s: 100, m: 150, l: 280 }; // on a phone
const GAP = 12;
const CAPTION = 42;
const HEADING = 52;
export const tiles = new Map(); // row -> {node, version}: tiles in the document, kept over a refresh so that nothing flickers
let shownGroups = null;
let across = 1;
let tileSide = 0;

const galleryBody = h("div", { class: "lines", role: "rowgroup" });
const galleryLines = new Lines(galleryBody, makeLine);

export function startGallery() {
  const gallery = byId("gallery");
  fill(
    gallery,
    {
      role: "grid",
      tabindex: "0",
      "aria-labelledby": "view-title",
      "aria-multiselectable": setup.live ? "true" : null,
    },
    [galleryBody],
  );
  gallery.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    const tile = /** @type {HTMLElement} */ (target.closest(".tile"));
    if (!tile) return;
    const row = Number(tile.dataset.row);
    if (target.closest(".pick") || (setup.live && (event.ctrlKey || event.metaKey)))
      return pick(row, !picked.has(row));
    if (setup.live && event.shiftKey) return pickTo(row);
    setCurrent(row, { reveal: false });
    openLarge(row);
  });
  onNewWidth(gallery, () => layGallery());
  onPicks(showPicks);
}

export function showGallery(rows) {
  const groups = state.group && field(state.group) ? grouped(rows, state.group) : [{ label: null, rows }];
  for (const row of picked) if (gone.has(row)) picked.delete(row);
  const was = placeOf.get(current) ?? 0;
  setShown(groups.length === 1 ? groups[0].rows : groups.flatMap((group) => group.rows));
  if (current === null || !placeOf.has(current)) setCurrentRow(shownRows[Math.min(was, shownRows.length - 1)] ?? null);
  shownGroups = groups;
  for (const row of leaving) if (!placeOf.has(row)) picked.delete(row);
  leaving.clear();
  layGallery(true);
}

let laidFor = "";
function layGallery(force = false) {
  const gallery = byId("gallery");
  if (!gallery.clientWidth || !shownGroups) return;
  const width = gallery.clientWidth;
  const least = innerWidth < 600 ? (SMALL_SIZES[state.size] ?? SMALL_SIZES.m) : (SIZES[state.size] ?? SIZES.m);
  across = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  tileSide = (width - GAP * (across - 1)) / across;
  const now = `${across} ${tileSide}`;
  if (!force && now === laidFor) return;
  laidFor = now;
  const lines = [];
  let start = 0;
  for (const group of shownGroups) {
    if (group.label !== null) lines.push({ heading: group, height: HEADING });
    for (let k = 0; k < group.rows.length; k += across) {
      lines.push({ rows: group.rows.slice(k, k + across), start: start + k, height: tileSide + CAPTION + GAP });
    }
    start += group.rows.length;
  }
  fill(gallery, { "aria-rowcount": lines.length, "aria-colcount": across }, []);
  lineOfRow = null;
  galleryLines.set(lines);
  pruneTiles();
  markCurrent();
}

// What is at the top of the window, and how far down, so that rows that come in above do not push it away.
export function anchorOf() {
  if (state.view !== "gallery" || scrollY === 0) return null;
  const covered = barHeight();
  const top = galleryBody.getBoundingClientRect().top;
  if (top > covered) return null;
  const k = galleryLines.lines.findIndex(
    (line, at) => line.rows && top + galleryLines.tops[at] + line.height > covered,
  );
  return k < 0 ? null : { row: galleryLines.lines[k].rows[0], at: top + galleryLines.tops[k] };
}

export function backTo(anchor) {
  const k = anchor === null ? undefined : lineWith(anchor.row);
  if (k === undefined) return;
  scrollBy(0, galleryBody.getBoundingClientRect().top + galleryLines.tops[k] - anchor.at);
  galleryLines.show();
}

let lineOfRow = null;
function lineWith(row) {
  if (!lineOfRow) {
    lineOfRow = new Map();
    galleryLines.lines.forEach((line, k) => line.rows?.forEach((member) => lineOfRow.set(member, k)));
  }
  return lineOfRow.get(row);
}

function makeLine(line, k) {
  if (line.heading) return makeHeading(line.heading, k);
  const node = h("div", { class: "line", role: "row", "aria-rowindex": k + 1 }, line.rows.map(makeTile));
  node.style.gridTemplateColumns = `repeat(${across}, ${tileSide}px)`;
  node.style.gap = `${GAP}px`;
  node.style.paddingBottom = `${GAP}px`;
  return node;
}

function makeHeading({ label, picture: image, rows }, k) {
  return h(
    "div",
    { class: "line heading", role: "row", "aria-rowindex": k + 1 },
    image && picture(image, { alt: "" }, () => null),
    h(
      "div",
      { role: "gridcell" },
      h("span", { class: "label", title: label }, h("bdi", null, label)),
      h("small", null, plural(rows.length, "picture")),
    ),
  );
}

function makeTile(row, k) {
  const kept = tiles.get(row);
  if (kept && kept.version === versions[row]) return kept.node;
  const status = columns.status[row];
  const node = h(
    "div",
    {
      class: `tile ${status}`,
      role: "gridcell",
      id: `t${row}`,
      "data-row": row,
      "aria-colindex": k + 1,
      "aria-selected": setup.live ? String(picked.has(row)) : null,
    },
    tileFrame(row, status),
    h("div", { class: "caption" }, h("b", null, h("bdi", null, columns.id[row])), h("span", null, tileNote(row))),
  );
  tiles.set(row, { node, version: versions[row] });
  node.classList.toggle("current", row === current);
  return node;
}

function tileFrame(row, status) {
  const thumb = columns.thumb[row];
  const frame = h("div", { class: "frame" });
  if (thumb)
    frame.append(thumbOf(row, () => nothing("No preview", "the picture is missing or damaged")));
  else if (status === "done") frame.append(nothing("No preview", "the picture is missing or damaged"));
  else
    frame.append(
      nothing(
        status === "failed" ? "✕ Failed" : "? Unknown",
        columns.error_code[row] ?? "",
        status === "failed" ? "bad" : "unsure",
      ),
    );
  const review = columns.review[row];
  if (thumb && status !== "done" && !review)
    frame.append(h("span", { class: "badge bad" }, `✕ ${columns.error_code[row] ?? status}`));
  if (review)
    frame.append(
      h(
        "span",
        { class: `badge ${REVIEW_TONES[review] ?? ""}` },
        `${REVIEW_MARKS[review] ?? ""} ${REVIEW_WORDS[review] ?? review}`,
      ),
    );
  if (setup.live)
    frame.append(
      h(
        "button",
        { type: "button", class: "pick", tabindex: "-1", "aria-label": `Select ${columns.id[row]}` },
        picked.has(row) ? "✓" : "",
      ),
    );
  return frame;
}
const REVIEW_MARKS = { __proto__: null, accept: "✓", reject: "✕", redo: "↻" };

export const thumbOf = (row, lost) =>
  picture(
    columns.thumb[row],
    { alt: columns.prompt[row] || columns.id[row], decoding: "async", draggable: "false" },
    lost,
  );

const REVIEW_TONES = { __proto__: null, accept: "good", reject: "bad", redo: "unsure" };

export const nothing = (title, note, tone = null) => h("div", { class: "nothing" }, h("b", { class: tone }, title), note);

function tileNote(row) {
  const parts = [columns.aspect_ratio[row], columns.seed[row] !== null ? `seed ${columns.seed[row]}` : null];
  if (columns.width[row]) parts.push(`${columns.width[row]} × ${columns.height[row]}`);
  return parts.filter((part) => part !== null).join(" · ");
}

function pruneTiles() {
  for (const [row, { node }] of tiles) if (!node.isConnected) tiles.delete(row);
}

export function setCurrent(row, { reveal = true } = {}) {
  setCurrentRow(row);
  if (reveal && lineWith(row) !== undefined) galleryLines.reveal(lineWith(row), barHeight());
  pruneTiles();
  markCurrent();
}

function markCurrent() {
  for (const node of galleryBody.querySelectorAll(".tile.current")) node.classList.remove("current");
  const node = tiles.get(current)?.node;
  if (node?.isConnected) node.classList.add("current");
  fill(byId("gallery"), { "aria-activedescendant": current === null ? "" : `t${current}` }, []);
}

// Move by so many pictures, or by lines of the grid.
export function move(by) {
  if (!shownRows.length) return;
  const at = placeOf.get(current) ?? 0;
  setCurrent(shownRows[Math.min(shownRows.length - 1, Math.max(0, at + by))]);
}

export function moveLine(by) {
  const k = lineWith(current);
  if (k === undefined) return;
  const column = galleryLines.lines[k].rows.indexOf(current);
  let next = k + by;
  while (galleryLines.lines[next]?.heading) next += by;
  const line = galleryLines.lines[next];
  if (line) setCurrent(line.rows[Math.min(column, line.rows.length - 1)]);
}

function showPicks() {
  for (const [row, { node }] of tiles) {
    node.setAttribute("aria-selected", String(picked.has(row)));
    node.querySelector(".pick").textContent = picked.has(row) ? "✓" : "";
  }
  byId("gallery").classList.toggle("picking", picked.size > 0);
  markCurrent();
}
