// What stands beside a large picture: its verdict, prompt, references, other makings, tags and fields.
import { h, outside, picture } from "./dom.js";
import { byName, REDO } from "./fields.js";
import { verdictSection } from "./judge.js";
import { openLarge } from "./selection.js";
import { columns, header, presentRows, rowOfId, setup } from "./store.js";
import { LABELS, money, plural, REVIEW_WORDS, STATUS_WORDS } from "./words.js";

const FIELD_ORDER = (
  "id status error_code error remarks file_name images seed aspect_ratio output_format safety_tolerance prompt_upsampling variant model provider style " +
  "size bytes attempts possibly_billed cost started_at finished_at api_seconds download_seconds result_url seed_used revised_prompt sha256 key"
).split(" ");

export function panel(row, all) {
  return h(
    "div",
    { class: "panel", tabindex: "0", role: "region", "aria-label": "About this picture" },
    setup.live && verdictSection(row, all),
    all.error && h("section", null, h("p", { class: "error" }, h("b", null, all.error_code ?? "Note"), " ", all.error)),
    all.remarks && h("section", null, h("p", { class: "error" }, h("b", null, LABELS.remarks), " ", all.remarks)),
    h("section", null, h("h3", null, "Prompt"), h("p", { class: "prompt", dir: "auto" }, all.prompt || "(none)")),
    !setup.live &&
      (all.review || all.note) &&
      h(
        "section",
        null,
        h("h3", null, "Verdict"),
        h("p", null, REVIEW_WORDS[all.review] ?? all.review, all.note && `: ${all.note}`),
      ),
    referenceSection(all),
    familySection(all),
    tagSection(all),
    h("section", null, h("h3", null, "Fields"), fieldList(all)),
  );
}

function referenceSection(all) {
  if (!all.references.length) return null;
  return h(
    "section",
    null,
    h("h3", null, all.references.length === 1 ? "Reference" : "References"),
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
    h("h3", null, "Other makings"),
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
    h("h3", null, "Tags"),
    h(
      "dl",
      { class: "fields" },
      tags.map(([name, value]) => [h("dt", null, h("bdi", null, name)), h("dd", { dir: "auto" }, value || "–")]),
    ),
  );
}

function fieldList(all) {
  const size = all.width ? `${all.width} × ${all.height} px` : null;
  const say = {
    size: () => size,
    bytes: (value) => plural(value, "byte"),
    cost: (value) => money(value, header.currency),
    status: (value) => STATUS_WORDS[value] ?? value,
    started_at: (value) => value,
    finished_at: (value) => value,
    api_seconds: (value) => `${value.toFixed(3)} s`,
    download_seconds: (value) => `${value.toFixed(3)} s`,
    result_url: (value) => outside(value),
    prompt_upsampling: (value) => (value ? "yes" : "no"),
  };
  const rows = FIELD_ORDER.map((name) => [name, name === "size" ? size : all[name]]).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  return h(
    "dl",
    { class: "fields" },
    rows.map(([name, value]) => [
      h("dt", null, LABELS[name] ?? name),
      h(
        "dd",
        { class: ["sha256", "key"].includes(name) ? "code" : null, "data-field": name, dir: "auto" },
        say[name] ? say[name](value) : String(value),
      ),
    ]),
  );
}
