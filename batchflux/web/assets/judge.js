// Verdicts: accept, reject, redo, with a note; on the picture that is open, the current one, or all selected ones.
const VERDICTS = [
  ["accept", "✓ Accept", "a"],
  ["reject", "✕ Reject", "r"],
  ["redo", "↻ Redo…", "e"],
  ["", "Clear", "u"],
];

// Whom a key means just now.
const judged = () => (large !== null ? [large] : picked.size ? [...picked] : current !== null ? [current] : []);

// Send a verdict; returns what went wrong, "" when nothing did.
async function judge(rows, review, { note = null, redo = null } = {}) {
  if (!rows.length) return "";
  const body = JSON.stringify({ keys: rows.map((row) => columns.key[row]), review, note, redo });
  try {
    const answer = await fetch("/api/verdicts", {
      method: "POST",
      body,
      headers: {
        "Content-Type": "application/json",
        "X-Batchflux-Token": document.querySelector('meta[name="batchflux-token"]').content,
      },
    });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error ?? `The server answered ${answer.status}.`);
    takeRows(said.rows);
    for (const { id } of review === "redo" ? (said.redo ?? []) : [])
      tell(`${id} will be made by the next batchflux run (or run --redo).`);
    return "";
  } catch (error) {
    const why =
      error instanceof TypeError ? "The review server cannot be reached; the verdict is not kept." : error.message;
    tell(why, { bad: true });
    return why;
  }
}

function verdictKey(review) {
  const rows = judged();
  if (review === "redo") return openRedo(rows);
  return judge(rows, review, { note: large !== null ? changedNote(large) : null });
}

// The note as typed, null when it is as it was.
function changedNote(row) {
  const typed = byId("note")?.value;
  return typed === undefined || typed === (columns.note[row] ?? "") ? null : typed;
}

function verdictSection(row, all) {
  const save = () => {
    if (changedNote(row) !== null) judge([row], columns.review[row], { note: changedNote(row) });
  };
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
    h("textarea", {
      id: "note",
      "data-for": "note",
      rows: "2",
      "aria-label": "Note",
      placeholder: "Note (N)",
      dir: "auto",
      value: all.note ?? "",
      onchange: save,
    }),
    all.review &&
      h(
        "button",
        { type: "button", class: "plain clear", "data-for": "verdict-", onclick: () => verdictKey("") },
        "Clear the verdict ",
        h("kbd", { "aria-hidden": "true" }, "U"),
      ),
  );
}

function showJudging() {
  const host = byId("judging");
  host.hidden = picked.size === 0;
  if (host.hidden) return host.replaceChildren();
  host.replaceChildren(
    h("b", null, `${whole.format(picked.size)} selected`),
    ...VERDICTS.map(([review, label, key]) =>
      h(
        "button",
        { type: "button", onclick: () => verdictKey(review) },
        label,
        " ",
        h("kbd", { "aria-hidden": "true" }, key.toUpperCase()),
      ),
    ),
    h(
      "button",
      { type: "button", class: "plain", onclick: pickNone },
      "Deselect ",
      h("kbd", { "aria-hidden": "true" }, "Esc"),
    ),
  );
}

// What to make anew: the prompt may be edited and a seed given for one picture; for several only the note is asked.
function openRedo(rows) {
  if (!rows.length) return;
  const dialog = byId("redo");
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
  const send = async (event) => {
    event.preventDefault();
    const edited = single !== null && prompt.value.trim() !== "" && prompt.value !== before ? prompt.value : null;
    const redo = { prompt: edited, seed: seed.value === "" ? null : Number(seed.value) };
    const why = await judge(rows, "redo", { note: note.value === "" && single === null ? null : note.value, redo });
    if (why) fault.replaceChildren(h("p", { class: "error" }, why));
    else dialog.close();
  };
  const fault = h("div", { role: "alert" });
  const seeded = single !== null && columns.style[single] === "standard"; // the chat style carries no seed
  dialog.replaceChildren(
    h(
      "form",
      { method: "dialog", onsubmit: send },
      h("h2", { id: "redo-title" }, single === null ? `Redo ${plural(rows.length, "picture")}` : "Redo this picture"),
      h("p", { class: "hint" }, "The next batchflux run makes a new variant; this picture stays."),
      single !== null && [h("label", { for: "redo-prompt" }, "Prompt"), prompt],
      seeded && [h("label", { for: "redo-seed" }, "Seed"), seed],
      h("label", { for: "redo-note" }, "Note"),
      note,
      fault,
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", class: "main-action" }, "Redo"),
      ),
    ),
  );
  dialog.showModal();
  (single === null ? note : prompt).focus();
}
