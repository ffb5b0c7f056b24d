// The filters: one control for each field that has more than one value.
const FACETS = ["code", "style", "ratio", "seed", "model", "variant", "review"];
const MOST_CHOICES = 200;
const MOST_TAGS = 6;

function statusPills() {
  const counts = countsOf("status");
  if (counts.size < 2 && !state.status) return null;
  const pills = [
    ["", "All", presentRows().length],
    ...["done", "failed", "unknown"]
      .filter((name) => counts.has(name))
      .map((name) => [name, STATUS_WORDS[name], counts.get(name)]),
  ];
  return h(
    "div",
    { class: "segments", role: "group", "aria-label": "Status" },
    pills.map(([value, label, count]) =>
      segment([label, h("small", null, whole.format(count))], state.status === value, () => change({ status: value }), {
        "data-for": `status-${value}`,
      }),
    ),
  );
}

function facets() {
  const tags = tagNames()
    .slice(0, MOST_TAGS)
    .map((tag) => `tag.${tag}`);
  const active = activeFilters().filter((name) => name.startsWith("tag.") && !tags.includes(name));
  return [...FACETS, ...tags, ...active].map((name) => facet(name));
}

function facet(name) {
  const of = field(name);
  const counts = countsOf(name);
  const value = state[name] ?? "";
  if (counts.size < 2 && !value && !(name === "review" && setup.live)) return null;
  const set = value ? "set" : null;
  if (counts.size > MOST_CHOICES) {
    const input = h("input", {
      type: "search",
      class: set,
      value,
      "data-for": name,
      placeholder: of.label,
      "aria-label": of.label,
      autocomplete: "off",
      onchange: () => change({ [name]: input.value.trim() }),
    });
    return h("span", { class: "facet" }, input);
  }
  const label = of.label.toLowerCase() === of.label ? of.label : of.label.toLowerCase();
  const pairs = [
    ["", `Any ${label}`],
    ...[...counts].map(([found, count]) => [
      found === "" ? NONE : found,
      `${sayValue(of, found)} (${whole.format(count)})`,
    ]),
  ];
  if (value && !pairs.some(([found]) => found === value)) pairs.push([value, `${value} (0)`]);
  return h(
    "span",
    { class: "facet" },
    choice(
      {
        class: set,
        "data-for": name,
        "aria-label": of.label,
        onchange: (event) => change({ [name]: event.target.value }),
      },
      pairs,
      value,
    ),
  );
}
