// The gallery: all pictures that pass the filters, as lines of tiles, grouped or not. One tile is the current one.
import { barHeight, byId, fill, h, onNewWidth, picture } from "./dom.js";
import { field, grouped } from "./fields.js";
import { Lines } from "./lines.js";
import { badgeOf, pickButton, showPicked, thumbOrWhy } from "./marks.js";
import { current, onPicks, onTileClick, picked, placeOf, setCurrentRow, shownRows, takeShown } from "./selection.js";
import { state } from "./state.js";
import { columns, setup, versions } from "./store.js";
import { say } from "./words.js";

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
  gallery.addEventListener("click", (event) => onTileClick(event, (row) => setCurrentTile(row, { reveal: false })));
  onNewWidth(gallery, () => layGallery());
  onPicks(showPicks);
}

export function showGallery(rows) {
  const groups = state.group && field(state.group) ? grouped(rows, state.group) : [{ label: null, rows }];
  takeShown(groups.length === 1 ? groups[0].rows : groups.flatMap((group) => group.rows));
  shownGroups = groups;
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
      h("small", null, say.pictures(rows.length)),
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
    tileFrame(row),
    h("div", { class: "caption" }, h("b", null, h("bdi", null, columns.id[row])), h("span", null, tileNote(row))),
  );
  tiles.set(row, { node, version: versions[row] });
  node.classList.toggle("current", row === current);
  return node;
}

const tileFrame = (row) => h("div", { class: "frame" }, thumbOrWhy(row), badgeOf(row), pickButton(row));

function tileNote(row) {
  const parts = [columns.aspect_ratio[row], columns.seed[row] !== null ? say.seed(columns.seed[row]) : null];
  if (columns.width[row]) parts.push(`${columns.width[row]} × ${columns.height[row]}`);
  return parts.filter((part) => part !== null).join(" · ");
}

function pruneTiles() {
  for (const [row, { node }] of tiles) if (!node.isConnected) tiles.delete(row);
}

export function setCurrentTile(row, { reveal = true } = {}) {
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
  setCurrentTile(shownRows[Math.min(shownRows.length - 1, Math.max(0, at + by))]);
}

export function moveLine(by) {
  const k = lineWith(current);
  if (k === undefined) return;
  const column = galleryLines.lines[k].rows.indexOf(current);
  let next = k + by;
  while (galleryLines.lines[next]?.heading) next += by;
  const line = galleryLines.lines[next];
  if (line) setCurrentTile(line.rows[Math.min(column, line.rows.length - 1)]);
}

function showPicks() {
  for (const [row, { node }] of tiles) {
    node.setAttribute("aria-selected", String(picked.has(row)));
    showPicked(node, row);
  }
  byId("gallery").classList.toggle("picking", picked.size > 0);
  markCurrent();
}
