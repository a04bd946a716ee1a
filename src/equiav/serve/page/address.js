// What is shown, kept in the address so that it can be shared:  #/search?clip=…&labels=dog

const VIEWS = ["search", "library", "model"];

/** The view and its parameters (URLSearchParams). */
export function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: VIEWS.includes(path) ? path : "search", values: new URLSearchParams(query ?? "") };
}

/** `?a=1&b=x&b=y` of values: lists are repeated, what is empty or false is left out. */
export function queryOf(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) {
      if (![null, undefined, "", false].includes(one)) query.append(name, one === true ? "1" : one);
    }
  }
  return query.size ? `?${query}` : "";
}

/** The address of a view. */
export const to = (view, values = {}) => `#/${view}${queryOf(values)}`;

/** Go there; `keep`: as the same step of the history, without showing anew. */
export function go(address, { keep = false } = {}) {
  if (keep) history.replaceState(null, "", address);
  else location.hash = address;
}
