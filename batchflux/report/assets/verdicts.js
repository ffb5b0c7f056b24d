// Verdicts on their way to the server: one request after the other, and what is said when one is refused.
import { find, tell } from "./dom.js";
import { takeRows } from "./live.js";
import { leaving } from "./selection.js";
import { columns, rowOfKey } from "./store.js";
import { plural, whole } from "./words.js";

const AT_ONCE = 2000; // keys a request; the server takes no endless list
const onTheWay = new Map(); // key -> {review}, the latest that is being sent
let sending = Promise.resolve(); // one request after the other, so that no older one overtakes a newer

// The verdict of a row as the server will have it.
export const verdictOf = (row) => onTheWay.get(columns.key[row])?.review ?? columns.review[row] ?? "";

// Send a verdict; returns what went wrong, "" when nothing did.
export function judge(rows, review, { note = null, redo = null } = {}) {
  const keys = rows.map((row) => columns.key[row]);
  const mine = { review };
  for (const key of keys) onTheWay.set(key, mine);
  return inTurn(async () => {
    try {
      return await sendAll(keys, { review, note, redo });
    } finally {
      for (const key of keys) if (onTheWay.get(key) === mine) onTheWay.delete(key);
    }
  });
}

export function inTurn(send) {
  const turn = sending.then(send);
  sending = turn.catch(() => null); // who asked for it hears of it
  return turn;
}

export async function sendAll(keys, verdict) {
  const asked = [];
  let kept = 0;
  let why = "";
  try {
    for (; kept < keys.length; kept = Math.min(keys.length, kept + AT_ONCE)) {
      const said = await sendVerdict({ ...verdict, keys: keys.slice(kept, kept + AT_ONCE) });
      asked.push(...(verdict.review === "redo" ? (said.redo ?? []) : []));
      takeRows(said.rows);
      for (const { key } of said.rows) leaving.add(rowOfKey.get(key));
    }
  } catch (error) {
    why = whyNot(error);
    if (kept) why = `Kept for ${whole.format(kept)} of ${plural(keys.length, "picture")} only: ${why}`;
  }
  if (why) tell(why, { bad: true });
  else if (asked.length) {
    const what = asked.length === 1 ? asked[0].id : plural(asked.length, "new picture");
    tell(`${what} will be made by the next batchflux run (or run --redo).`);
  }
  return why;
}

export const whyNot = (error) =>
  error instanceof TypeError ? "The review server cannot be reached; the verdict or note is not kept." : error.message;

export async function sendVerdict(body, { keepalive = false } = {}) {
  const answer = await fetch("/api/verdicts", {
    method: "POST",
    body: JSON.stringify(body),
    keepalive, // goes out also when the page is closed
    headers: {
      "Content-Type": "application/json",
      "X-Batchflux-Token": find(document, 'meta[name="batchflux-token"]').content,
    },
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error ?? `The server answered ${answer.status}.`);
  return said;
}

