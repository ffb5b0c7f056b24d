// How numbers, money, times and names of fields are said.
export const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
export const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const clockShort = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
export const dayAndClock = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
export const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export const LABELS = {
  __proto__: null,
  id: "Id",
  status: "Status",
  file_name: "File",
  images: "References",
  seed: "Seed",
  aspect_ratio: "Ratio",
  output_format: "Format",
  safety_tolerance: "Safety tolerance",
  prompt_upsampling: "Prompt upsampling",
  variant: "Variant",
  model: "Model",
  provider: "Provider",
  style: "Style",
  size: "Size",
  bytes: "Bytes",
  sha256: "SHA-256",
  attempts: "Attempts",
  possibly_billed: "Possibly billed",
  cost: "Cost",
  error_code: "Error code",
  error: "Error",
  remarks: "Remarks",
  started_at: "Started",
  finished_at: "Finished",
  api_seconds: "API time",
  download_seconds: "Download time",
  result_url: "Result link",
  seed_used: "Seed used",
  revised_prompt: "Revised prompt",
  key: "Key",
  review: "Verdict",
  note: "Note",
};
export const STATUS_WORDS = { __proto__: null, done: "Done", failed: "Failed", unknown: "Unknown" };
export const REVIEW_WORDS = { __proto__: null, accept: "Accepted", reject: "Rejected", redo: "Redo", "": "Not judged" };

export const plural = (number, word, words = `${word}s`) => `${whole.format(number)} ${number === 1 ? word : words}`;

export function money(amount, currency) {
  const places = Math.min(6, Math.max(2, (String(amount).split(".")[1] ?? "").length));
  const number = Number(amount).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: places });
  return currency ? `${number} ${currency}` : number;
}

export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${two.format(seconds)} s`;
  if (seconds < 60) return `${one.format(seconds)} s`;
  const all = Math.round(seconds);
  /** @type {[number, string][]} */
  const parts = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const first = parts.findIndex(([size]) => all >= size);
  return parts
    .slice(first, first + 2)
    .map(([size, unit], k) => ({ unit, count: Math.floor((k ? all % parts[first][0] : all) / size) }))
    .filter(({ count }) => count > 0)
    .map(({ count, unit }) => `${count} ${unit}`)
    .join(" ");
}

export function when(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? "" : `${day.format(at)}, ${clock.format(at)}`;
}
