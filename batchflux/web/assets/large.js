// One picture, large: with its references, all fields of its row, and (live) its verdict.
const MODES = [
  ["picture", "Picture", "1"],
  ["beside", "Beside", "2"],
  ["slider", "Slider", "3"],
];
let large = null; // the row that is open
let largeMode = "beside";
let opener = null;

function startLarge() {
  const dialog = byId("large");
  dialog.addEventListener("close", () => {
    if (state.open) change({ open: "" });
    large = null;
    dialog.replaceChildren();
    (opener?.isConnected ? opener : byId("gallery")).focus({ preventScroll: true });
  });
}

function openLarge(row, step = true) {
  if (!byId("large").open) opener = document.activeElement === document.body ? null : document.activeElement;
  change({ open: columns.id[row] }, { step: step && !byId("large").open });
}

const closeLarge = () => byId("large").close();

// Bring the dialog in line with the URL.
function followOpen() {
  const dialog = byId("large");
  const row = state.open === "" ? undefined : rowOfId.get(state.open);
  if (row === undefined) {
    if (dialog.open) dialog.close();
    return;
  }
  if (dialog.open && large === row && followOpen.version === versions[row] && followOpen.place === placeText(row))
    return;
  const same = large === row;
  followOpen.version = versions[row];
  followOpen.place = placeText(row);
  large = row;
  if (placeOf.has(row)) setCurrent(row, { reveal: state.view === "gallery" });
  showLarge(row, same);
}

const placeText = (row) =>
  placeOf.has(row)
    ? `${whole.format(placeOf.get(row) + 1)} of ${whole.format(shownRows.length)}`
    : "not among those shown";

async function showLarge(row, same) {
  const dialog = byId("large");
  const kept = dialog.contains(document.activeElement) ? document.activeElement.dataset.for : null;
  const note = same ? byId("note")?.value : undefined;
  const all = await details(row);
  if (large !== row) return;
  const modes = modesOf(all);
  const mode = modes.some(([name]) => name === largeMode) ? largeMode : modes[0][0];
  const scrolled = same ? dialog.querySelector(".panel")?.scrollTop : 0;
  dialog.setAttribute("aria-label", `Picture ${all.id}`);
  dialog.replaceChildren(
    h(
      "div",
      { class: "whole" },
      largeTop(row, modes, mode),
      h("div", { class: "stage" }, stage(row, all, mode)),
      panel(row, all),
    ),
  );
  if (note !== undefined && byId("note")) byId("note").value = note;
  if (!dialog.open) dialog.showModal();
  dialog.querySelector(".panel").scrollTop = scrolled ?? 0;
  (
    dialog.querySelector(`[data-for="${CSS.escape(kept ?? "close")}"]`) ?? dialog.querySelector('[data-for="close"]')
  ).focus({ preventScroll: true });
  nearby(row);
}

// Pictures before and after are fetched ahead, so that the arrows show them at once.
async function nearby(row) {
  const at = placeOf.get(row);
  if (at === undefined) return;
  for (const next of [shownRows[at + 1], shownRows[at - 1]]) {
    if (next === undefined) continue;
    const { full } = await details(next);
    if (full && large === row) new Image().src = full;
  }
}

const seenReferences = (all) => all.references.filter(({ src }) => src);

function modesOf(all) {
  const references = all.full ? seenReferences(all).length : 0;
  return MODES.filter(
    ([name]) => name === "picture" || (name === "beside" && references) || (name === "slider" && references === 1),
  ).sort(([a], [b]) => (a === largeMode ? -1 : b === largeMode ? 1 : 0) && 0);
}

function largeTop(row, modes, mode) {
  const at = placeOf.get(row);
  const button = (sign, label, onclick, disabled, key) =>
    h(
      "button",
      {
        type: "button",
        "data-for": label.toLowerCase(),
        onclick,
        disabled,
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
        { class: "segments", role: "group", "aria-label": "How to show it" },
        modes.map(([name, label, key]) =>
          segment(label, name === mode, () => setMode(name), {
            "data-for": `mode-${name}`,
            title: `${label} (${key})`,
          }),
        ),
      ),
    h("span", { class: "spring" }),
    button("‹", "Previous", () => step(-1), !at, "←"),
    button("›", "Next", () => step(1), at === undefined || at === shownRows.length - 1, "→"),
    button("✕", "Close", closeLarge, false, "Esc"),
  );
}

function setMode(name) {
  largeMode = name;
  followOpen.version = null;
  followOpen();
}

function step(by) {
  const next = shownRows[(placeOf.get(large) ?? -1) + by];
  if (next !== undefined) openLarge(next, false);
}

function stage(row, all, mode) {
  const references = seenReferences(all);
  if (!all.full && !columns.thumb[row]) {
    return h(
      "div",
      { class: "nothing" },
      h(
        "b",
        null,
        all.status === "done"
          ? "The picture's file is missing"
          : `${STATUS_WORDS[all.status] ?? all.status}: ${all.error_code ?? "no picture"}`,
      ),
      h(
        "span",
        null,
        all.status === "done"
          ? `${all.file_name ?? ""} is not in the folder; batchflux run brings it back.`
          : (all.error ?? ""),
      ),
    );
  }
  const full = all.full || all.thumb;
  if (mode === "slider") return beforeAfter(references[0], row, full);
  const picture = figure(
    full,
    columns.prompt[row] || all.id,
    [all.width && `${all.width} × ${all.height}`, all.file_name].filter(Boolean).join(" · "),
    all.full,
  );
  if (mode === "picture") return picture;
  return h(
    "div",
    { class: "beside" },
    references.map(({ src, label }) => figure(src, `Reference: ${label}`, `Reference · ${label}`)),
    picture,
  );
}

function figure(src, alt, caption, link = null) {
  const image = h("img", { src, alt, decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(nothing("No picture", "the file is missing or damaged")));
  return h(
    "figure",
    null,
    h("figcaption", null, link ? h("a", { href: link, target: "_blank", rel: "noopener" }, caption) : caption),
    image,
  );
}
