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
  pair.append(
    h("img", { class: "before", src: reference.src, alt: `Reference: ${reference.label}`, draggable: "false" }),
    h("img", { class: "after", src: full, alt: columns.prompt[row] || columns.id[row], draggable: "false" }),
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
