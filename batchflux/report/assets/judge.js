// Verdicts: accept, reject, redo, with a note; on the picture that is open, the current one, or all selected ones.
const VERDICTS = [
  ["accept", "✓ Accept", "a"],
  ["reject", "✕ Reject", "r"],
  ["redo", "↻ Redo…", "e"],
  ["", "Clear", "u"],
];

// Whom a key means just now. Of a selection only what is shown: nobody judges what nobody sees.
const judged = () => (large !== null ? [large] : picked.size ? shownPicks() : current !== null ? [current] : []);
const shownPicks = () => shownRows.filter((row) => picked.has(row));

const AT_ONCE = 2000; // keys a request; the server takes no endless list
const onTheWay = new Map(); // key -> {review}, the latest that is being sent
const leaving = new Set(); // rows just judged: those that a filter hides now are not selected any more
let sending = Promise.resolve(); // one request after the other, so that no older one overtakes a newer

// The verdict of a row as the server will have it.
const verdictOf = (row) => onTheWay.get(columns.key[row])?.review ?? columns.review[row] ?? "";

// Send a verdict; returns what went wrong, "" when nothing did.
function judge(rows, review, { note = null, redo = null } = {}) {
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

function inTurn(send) {
  const turn = sending.then(send);
  sending = turn.catch(() => null); // who asked for it hears of it
  return turn;
}

async function sendAll(keys, verdict) {
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

const whyNot = (error) =>
  error instanceof TypeError ? "The review server cannot be reached; the verdict or note is not kept." : error.message;

async function sendVerdict(body, { keepalive = false } = {}) {
  const answer = await fetch("/api/verdicts", {
    method: "POST",
    body: JSON.stringify(body),
    keepalive, // goes out also when the page is closed
    headers: {
      "Content-Type": "application/json",
      "X-Batchflux-Token": document.querySelector('meta[name="batchflux-token"]').content,
    },
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error ?? `The server answered ${answer.status}.`);
  return said;
}

function tellHidden() {
  if (picked.size) tell("All selected pictures are hidden by filters; Esc deselects them.");
}

function verdictKey(review) {
  const rows = judged();
  if (!rows.length) {
    tellHidden();
    return "";
  }
  if (review === "redo") return openRedo(rows);
  return judge(rows, review, { note: large !== null ? changedNote(large) : null });
}

function verdictSection(row, all) {
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
function showJudging() {
  const host = byId("judging");
  const shown = state.view === "gallery" ? shownPicks().length : 0;
  const hidden = picked.size - shown;
  const wanted = picked.size === 0 || state.view !== "gallery" ? "" : `${shown} ${hidden}`;
  if (wanted === barFor) return;
  barFor = wanted;
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.for : null;
  host.hidden = wanted === "";
  host.replaceChildren(...(wanted ? barParts(shown, hidden) : []));
  placeNews();
  if (focused) (host.querySelector(`[data-for="${CSS.escape(focused)}"]:not(:disabled)`) ?? byId("gallery")).focus();
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
const placeNews = () => document.documentElement.style.setProperty("--judging", `${byId("judging").offsetHeight}px`);

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
  const seeded = single !== null && columns.style[single] === "standard"; // the chat style carries no seed
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
