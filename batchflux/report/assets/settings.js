// What a person set for themselves: kept in this browser. A review has another port each time and cookies belong to a
// host whatever the port, so a served page keeps them in a cookie; a file has no cookies, and uses local storage.
const NAME = "batchflux_page";
const UNSET = { reviewer: null, advance: true, singleKeys: true, reading: true };
const served = location.protocol !== "file:";
export const settings = { ...UNSET, ...found() };

function found() {
  try {
    const kept = served
      ? decodeURIComponent(document.cookie.split("; ").find((one) => one.startsWith(`${NAME}=`))?.slice(NAME.length + 1) ?? "{}")
      : (localStorage.getItem(NAME) ?? "{}");
    const value = JSON.parse(kept);
    return Object.fromEntries(Object.keys(UNSET).filter((name) => name in value).map((name) => [name, value[name]]));
  } catch {
    return {}; // unreadable, or the browser keeps nothing for this page
  }
}

export function set(changes) {
  Object.assign(settings, changes);
  const text = JSON.stringify(settings);
  try {
    if (served) document.cookie = `${NAME}=${encodeURIComponent(text)}; path=/; max-age=31536000; SameSite=Strict`;
    else localStorage.setItem(NAME, text);
  } catch {
    // the browser keeps nothing for this page: the setting holds until it is closed
  }
}
