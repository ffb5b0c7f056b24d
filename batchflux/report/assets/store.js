// The rows, as columns. Blocks come from the page's own script elements (see page.py), later rows from the server.
import { byId, lostImages } from "./dom.js";

export const setup = JSON.parse(byId("setup").textContent);
export const columns = Object.fromEntries(setup.columns.map((name) => [name, []]));
const rests = []; // {start, count, node}: what the index leaves out, unpacked when a picture is opened
const later = new Map(); // row -> whole object, for rows that came after the page
export const versions = []; // goes up when a row changes
const lowered = []; // what the search looks through
export const rowOfKey = new Map();
export const rowOfId = new Map();
export const gone = new Set(); // rows whose job is no longer listed
export let header = setup.header; // what the page's head and the charts say of the run
export let rowCount = 0;
export let versionsSum = 0; // goes up when any row changes
export let shapeSum = 0; // goes up when more changes than what people said: what rows are filtered, grouped, laid out by
const SAID = ["review", "note", "reviewer"];
let present = null; // all rows but those that are gone; made anew after a change

export function presentRows() {
  if (present === null) {
    present = [];
    for (let row = 0; row < rowCount; row++) if (!gone.has(row)) present.push(row);
  }
  return present;
}

export function forget() {
  for (const column of Object.values(columns)) column.length = 0;
  for (const kept of [later, rowOfKey, rowOfId, gone, unpackedRests]) kept.clear();
  rests.length = versions.length = lowered.length = rowCount = 0;
  present = null;
  versionsSum += 1;
  shapeSum += 1;
}

export function takeAway(keys) {
  for (const key of keys) {
    const row = rowOfKey.get(key);
    if (row === undefined) continue;
    gone.add(row);
    if (rowOfId.get(columns.id[row]) === row) rowOfId.delete(columns.id[row]);
    versionsSum += 1;
  }
  shapeSum += 1;
  present = null;
}

function addIndex(block) {
  for (const [name, column] of Object.entries(block.columns)) {
    const target = columns[name];
    const { of, at, all } = column;
    for (let k = 0; k < block.count; k++) target.push(all ? all[k] : of[at ? at[k] : 0]);
  }
  for (let row = rowCount; row < rowCount + block.count; row++) noteRow(row);
  rowCount += block.count;
}

function noteRow(row) {
  present = null;
  gone.delete(row);
  rowOfKey.set(columns.key[row], row);
  rowOfId.set(columns.id[row], row);
  versions[row] = (versions[row] ?? 0) + 1;
  lowered[row] = undefined;
}

// Take a row from the server, new or changed; returns its place.
export function upsert(object) {
  let row = rowOfKey.get(object.key);
  const fresh = row === undefined;
  // The answer to a verdict and the stream of changes tell the same.
  if (!fresh && !gone.has(row) && JSON.stringify(later.get(row)) === JSON.stringify(object)) return { row, fresh };
  if (fresh) row = rowCount++;
  else if (rowOfId.get(columns.id[row]) === row) rowOfId.delete(columns.id[row]); // an edit may have renamed it
  let shape = fresh || gone.has(row);
  for (const [name, column] of Object.entries(columns)) {
    const value = object[name] ?? null;
    shape ||= !SAID.includes(name) && JSON.stringify(value) !== JSON.stringify(column[row]);
    column[row] = value;
  }
  if (shape) shapeSum += 1;
  later.set(row, object);
  if (object.full) for (const src of [object.full, object.thumb]) lostImages.delete(src); // it is there (again)
  noteRow(row);
  versionsSum += 1;
  return { row, fresh };
}

export const searchText = (row) => (lowered[row] ??= `${columns.prompt[row]}\n${columns.id[row]}`.toLowerCase());

// All fields of a row; the promise is done once its block is unpacked.
export async function details(row) {
  if (later.has(row)) return later.get(row);
  const all = {};
  for (const [name, column] of Object.entries(columns)) all[name] = column[row];
  const rest = rests.find(({ start, count }) => row >= start && row < start + count);
  const block = await unpackedRest(rest);
  for (const [name, column] of Object.entries(block.columns)) {
    const k = row - rest.start;
    all[name] = column.all ? column.all[k] : column.of[column.at ? column.at[k] : 0];
  }
  return later.get(row) ?? all;
}

const unpackedRests = new Map(); // the last few, least recently used first
function unpackedRest(rest) {
  const found = unpackedRests.get(rest) ?? gunzipped(rest.node.textContent);
  unpackedRests.delete(rest);
  unpackedRests.set(rest, found);
  if (unpackedRests.size > 4) unpackedRests.delete(unpackedRests.keys().next().value);
  return found;
}

async function gunzipped(base64) {
  const bytes = "fromBase64" in Uint8Array ? /** @type {any} */ (Uint8Array).fromBase64(base64) : fromBase64(base64);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

// Take up the blocks that the parser has come past; packed ones only once the page is whole.
export async function readBlocks({ packed }) {
  /** @type {NodeListOf<HTMLScriptElement>} */
  const indexes = document.querySelectorAll("script.index:not([data-read])");
  /** @type {NodeListOf<HTMLScriptElement>} */
  const others = document.querySelectorAll("script.rest:not([data-read])");
  for (const [k, node] of indexes.entries()) {
    const plain = node.type === "application/json";
    if (!plain && !packed) continue;
    const start = rowCount;
    const block = plain ? JSON.parse(node.textContent) : await gunzipped(node.textContent);
    rests.push({ start, count: block.count, node: others[k] });
    addIndex(block);
    node.dataset.read = others[k].dataset.read = "yes";
    node.textContent = "";
  }
}

export function takeHeader(fresh) {
  header = fresh;
}
