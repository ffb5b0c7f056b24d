// Before and after in one place: the reference lies under the picture, and a range moves the edge between them.
function beforeAfter(reference, row, full) {
  const pair = h("div", { class: "pair" });
  const range = h("input", {
    type: "range",
    id: "slider",
    min: "0",
    max: "100",
    step: "1",
    "aria-label": "Edge between the reference and the picture",
    oninput: () => {
      pair.style.setProperty("--at", `${range.value}%`);
      range.setAttribute("aria-valuetext", `reference up to ${range.value} %, picture from there`);
    },
  });
  range.value = "50";
  // Without one of the two there is no edge: the large view falls back to showing them side by side.
  const lost = () => {
    if (large === row && state.open !== "") showLarge(row);
    return null;
  };
  pair.append(
    picture(reference.src, { class: "before", alt: `Reference: ${reference.label}`, draggable: "false" }, lost),
    picture(full, { class: "after", alt: columns.prompt[row] || columns.id[row], draggable: "false" }, lost),
    h("div", { class: "rule", "aria-hidden": "true" }),
    range,
  );
  return h(
    "div",
    { class: "slider" },
    pair,
    h("div", { class: "ends" }, h("span", null, "Reference"), h("span", null, "Picture")),
  );
}
