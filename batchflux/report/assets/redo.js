// The form of a redo: for one picture its prompt and a seed, for several one prompt for all or a text to replace in each.
import { byId, h } from "./dom.js";
import { openForm } from "./notes.js";
import { columns } from "./store.js";
import { judge } from "./verdicts.js";
import { say } from "./words.js";

// `then` is called once the redo of a single picture was asked for.
export function openRedo(rows, then) {
  if (rows.length === 1) openForOne(rows[0], then);
  else if (rows.length) openForMany(rows);
}

const labelled = (id, words, node) => [h("label", { for: id }, words), node];
const area = (id, rows, value, placeholder = null) => h("textarea", { id, rows, dir: "auto", value, placeholder });

function openForOne(row, then) {
  const before = columns.prompt[row];
  const prompt = area("redo-prompt", "5", before);
  const seed = h("input", { id: "redo-seed", type: "number", step: "1", min: "0", placeholder: say.seedHint });
  const note = area("redo-note", "2", byId("note")?.value ?? columns.note[row] ?? "");
  const send = async () => {
    const edited = prompt.value.trim() !== "" && prompt.value !== before ? prompt.value : null;
    const redo = { prompt: edited, seed: seed.value === "" ? null : Number(seed.value) };
    const why = await judge([row], "redo", { note: note.value, redo });
    if (!why) then();
    return why;
  };
  const seeded = columns.style[row] !== "chat"; // which carries no seed
  openForm(
    byId("redo"),
    say.redo,
    send,
    say.redoOne,
    h("p", { class: "hint" }, say.redoHintOne),
    labelled("redo-prompt", say.prompt, prompt),
    seeded && labelled("redo-seed", say.seedLabel, seed),
    labelled("redo-note", say.note, note),
  );
  prompt.focus();
}

function openForMany(rows) {
  const prompts = rows.map((row) => columns.prompt[row] ?? "");
  const before = new Set(prompts).size === 1 ? prompts[0] : "";
  const prompt = area("redo-prompt", "4", before, say.promptAsIs);
  const find = h("input", { id: "redo-find", autocomplete: "off", dir: "auto" });
  const replace = h("input", { id: "redo-replace", autocomplete: "off", dir: "auto" });
  const says = h("p", { class: "hint", role: "status" });
  const note = area("redo-note", "2", "");
  const found = () => rows.filter((_, k) => prompts[k].includes(find.value));
  const blank = () => prompts.some((one) => one.includes(find.value) && !one.replaceAll(find.value, () => replace.value).trim());
  const look = () => {
    prompt.disabled = find.value !== "";
    const many = found().length;
    says.textContent =
      find.value === "" ? "" : !many ? say.findNothing : blank() ? say.findBlank : say.findSays(many, rows.length);
  };
  for (const node of [find, replace]) node.addEventListener("input", look);
  const send = () => {
    const searched = find.value !== "";
    if (searched && (!found().length || blank())) return found().length ? say.findBlank : say.findNothing;
    const edited = prompt.value.trim() !== "" && prompt.value !== before ? prompt.value : null;
    const redo = searched ? { find: find.value, replace: replace.value } : { prompt: edited };
    return judge(searched ? found() : rows, "redo", { note: note.value === "" ? null : note.value, redo });
  };
  openForm(
    byId("redo"),
    say.redo,
    send,
    say.redoMany(rows.length),
    h("p", { class: "hint" }, say.redoHintMany),
    labelled("redo-prompt", before ? say.prompt : say.promptForAll, prompt),
    h("div", { class: "pair-of-fields" }, h("div", null, labelled("redo-find", say.find, find)), h("div", null, labelled("redo-replace", say.replace, replace))),
    says,
    labelled("redo-note", say.note, note),
  );
  (before ? prompt : note).focus();
}
