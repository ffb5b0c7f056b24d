// What stands beside a large picture: its verdict, prompt, references, other makings, tags and fields.
import { h, outside, picture } from "./dom.js";
import { byName, REDO } from "./fields.js";
import { verdictSection } from "./judge.js";
import { openLarge } from "./selection.js";
import { columns, header, presentRows, rowOfId, setup } from "./store.js";
import { called, labelOf, money, say } from "./words.js";

const FIELD_ORDER = (
  "id status error_code error remarks file_name mirror carries images seed aspect_ratio output_format safety_tolerance prompt_upsampling variant model provider style " +
  "size bytes attempts possibly_billed cost started_at finished_at api_seconds download_seconds result_url seed_used revised_prompt sha256 key"
).split(" ");

export function panel(row, all) {
  return h(
    "div",
    { class: "panel", tabindex: "0", role: "region", "aria-label": say.about },
    setup.live && verdictSection(row, all),
    all.error && h("section", null, h("p", { class: "error" }, h("b", null, all.error_code ?? say.errorNote), " ", all.error)),
    all.remarks && h("section", null, h("p", { class: "error" }, h("b", null, labelOf("remarks")), " ", all.remarks)),
    h("section", null, h("h3", null, say.prompt), h("p", { class: "prompt", dir: "auto" }, all.prompt || say.noPrompt)),
    !setup.live &&
      (all.review || all.note) &&
      h(
        "section",
        null,
        h("h3", null, say.verdict),
        h("p", null, called(say.reviews, all.review), all.reviewer && ` (${say.by(all.reviewer)})`, all.note && `: ${all.note}`),
      ),
    referenceSection(all),
    familySection(all),
    tagSection(all),
    h("section", null, h("h3", null, say.fields), fieldList(all)),
  );
}

function referenceSection(all) {
  if (!all.references.length) return null;
  return h(
    "section",
    null,
    h("h3", null, all.references.length === 1 ? say.reference : say.references),
    h(
      "ul",
      { class: "reference-list" },
      all.references.map(({ label, src, url }) =>
        h("li", null, src && picture(src, { alt: "" }, () => null), h("span", null, url ? outside(url) : h("bdi", null, label))),
      ),
    ),
  );
}

// The other makings of the same job: a redo has the place of its job in the manifest.
function familySection(all) {
  const others = presentRows()
    .filter((row) => columns.position[row] === all.position)
    .map((row) => columns.id[row])
    .filter((id) => id !== all.id && (REDO.test(id) || REDO.test(all.id)))
    .sort(byName.compare);
  if (!others.length) return null;
  return h(
    "section",
    null,
    h("h3", null, say.otherMakings),
    h(
      "ul",
      null,
      others.map((id) =>
        h(
          "li",
          null,
          h("button", { type: "button", class: "plain", onclick: () => openLarge(rowOfId.get(id), false) }, id),
        ),
      ),
    ),
  );
}

function tagSection(all) {
  const tags = Object.entries(all.tags);
  if (!tags.length) return null;
  return h(
    "section",
    null,
    h("h3", null, say.tags),
    h(
      "dl",
      { class: "fields" },
      tags.map(([name, value]) => [h("dt", null, h("bdi", null, name)), h("dd", { dir: "auto" }, value || "–")]),
    ),
  );
}

function fieldList(all) {
  const size = all.width ? `${all.width} × ${all.height} px` : null;
  const written = {
    size: () => size,
    bytes: (value) => say.bytes(value),
    cost: (value) => money(value, header.currency),
    status: (value) => called(say.statuses, value),
    started_at: (value) => value,
    finished_at: (value) => value,
    api_seconds: (value) => `${value.toFixed(3)} ${say.units.s}`,
    download_seconds: (value) => `${value.toFixed(3)} ${say.units.s}`,
    carries: (value) => value.split(" ").map((mark) => called(say.marks, mark)).join(", "),
    result_url: (value) => outside(value),
    prompt_upsampling: (value) => (value ? say.yes : say.no),
  };
  const rows = FIELD_ORDER.map((name) => [name, name === "size" ? size : all[name]]).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  return h(
    "dl",
    { class: "fields" },
    rows.map(([name, value]) => [
      h("dt", null, labelOf(name)),
      h(
        "dd",
        { class: ["sha256", "key"].includes(name) ? "code" : null, "data-field": name, dir: "auto" },
        written[name] ? written[name](value) : String(value),
      ),
    ]),
  );
}
