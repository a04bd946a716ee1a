// Which view is shown, and to whom: the address, the token, the keys.

import { read } from "./address.js";
import { ask } from "./api.js";
import { at } from "./elements.js";
import * as facts from "./facts.js";
import { listen } from "./keys.js";
import * as library from "./library.js";
import * as model from "./model.js";
import { stopPlaying } from "./player.js";
import * as search from "./search.js";
import { counted } from "./words.js";

const VIEWS = { search, library, model };
const TITLES = { search: "Search", library: "Library", model: "Model", "sign-in": "Sign in" };
const SIGNED_IN = "equiav-signed-in";

let shown = null;
let searched = "#/search"; // what the link to the search goes back to

function show() {
  const { view, values } = read();
  const anew = view !== shown;
  if (anew) {
    stopPlaying();
    open(view);
  }
  if (view === "search") searched = location.hash || searched;
  VIEWS[view].show(values, anew);
}

function open(view) {
  const first = shown === null;
  shown = view;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${view}`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (link.dataset.view === "search") link.href = view === "search" ? "#/search" : searched;
  }
  document.title = `${TITLES[view]} – equiav`;
  at("sign-out").hidden = view === "sign-in" || localStorage.getItem(SIGNED_IN) === null;
  if (!first) at(`h-${view}`).focus({ preventScroll: true });
  if (!first) window.scrollTo(0, 0);
}

async function name() {
  try {
    const found = await facts.library();
    at("where").textContent = `${found.name} · ${counted(found.clips, "clip")}`;
  } catch {
    at("where").textContent = "";
  }
}

function signIn(event) {
  event.preventDefault();
  const [field, told] = [at("token"), at("sign-in-problem")];
  told.hidden = true;
  ask("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${field.value}` } }).then(
    () => {
      field.value = "";
      localStorage.setItem(SIGNED_IN, "1");
      facts.forget();
      begin();
    },
    (error) => {
      told.textContent = error.status === 401 ? "This is not the service’s token." : error.message;
      told.hidden = false;
      field.select();
    },
  );
}

async function signOut() {
  await ask("/v1/session", { method: "DELETE" }).catch(() => {});
  localStorage.removeItem(SIGNED_IN);
  location.reload();
}

function begin() {
  show();
  name();
}

at("sign-in").addEventListener("submit", signIn);
at("sign-out").addEventListener("click", signOut);
document.addEventListener("token-needed", () => {
  if (shown === "sign-in") return;
  localStorage.removeItem(SIGNED_IN);
  open("sign-in");
  at("token").focus();
});
window.addEventListener("hashchange", () => shown !== "sign-in" && show());
document.querySelector(".skip").addEventListener("click", (event) => (event.preventDefault(), at("main").focus()));
listen(search.cancel);
search.start();
begin();
