// The page: a chat and a monitor over the server's own API. No library, and nothing from elsewhere.

import * as chat from "./chat.js";
import { $, element, store } from "./dom.js";
import * as monitor from "./monitor.js";
import * as settings from "./settings.js";
import { switchLanguage, translate, word } from "./words.js";

const VIEWS = ["chat", "monitor"];
const THEMES = ["auto", "light", "dark"];
/** Time until the server is asked again for its models if it could not be reached. */
const RETRY_MS = 3000;

let models = [];

async function loadModels() {
  try {
    const response = await fetch("/v1/models", { headers: settings.headers() });
    if (!response.ok) throw new Error(await chat.reason(response));
    // Those that make embeddings only have nothing to say here.
    models = (await response.json()).data.filter((model) => model.meta.kind !== "encoder");
    chat.showTrouble("");
  } catch (error) {
    models = [];
    chat.showTrouble(error instanceof TypeError ? word("unreachable") : error.message);
    if (error instanceof TypeError) setTimeout(loadModels, RETRY_MS);
  }
  showModels();
}

function showModels() {
  const options = models.map(({ id }) => element("option", { value: id }, id));
  $("model").replaceChildren(...(options.length ? options : [element("option", { value: "" }, word("noModel"))]));
  const wanted = settings.setting("model");
  if (models.some(({ id }) => id === wanted)) $("model").value = wanted;
  // What is chosen is kept even while the server is away.
  if (models.length) settings.set("model", $("model").value);
  $("model").disabled = models.length < 2;
  monitor.showModels(models);
  chat.showButtons();
}

function show(view) {
  for (const name of VIEWS) {
    const isShown = name === view;
    $(`view-${name}`).hidden = !isShown;
    $(`tab-${name}`).setAttribute("aria-selected", String(isShown));
    $(`tab-${name}`).tabIndex = isShown ? 0 : -1;
  }
  monitor.setOpen(view === "monitor");
}

function showSide(isShown) {
  const hadFocus = $("side").contains(document.activeElement);
  document.body.classList.toggle("with-side", isShown);
  $("cover").hidden = !isShown;
  $("open-side").setAttribute("aria-expanded", String(isShown));
  if (isShown) $("close-side").focus();
  else if (hadFocus && matchMedia("(max-width: 48rem)").matches) $("open-side").focus();
}

function showTheme() {
  const theme = store.read("theme", "auto");
  document.documentElement.dataset.theme = theme;
  $("theme").title = word("theme")[theme] ?? "";
  $("theme").setAttribute("aria-label", $("theme").title);
}

function showAll() {
  translate();
  const isHere = /^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname);
  $("where").textContent = isHere ? word("here") : word("there")(location.hostname);
  showTheme();
  settings.showSamplers();
  monitor.build();
  showModels();
  chat.show();
}

function send() {
  const text = $("prompt").value.trim();
  if (!text || !$("stop").hidden || $("send").disabled) return;
  $("prompt").value = "";
  grow();
  chat.ask(text);
}

/** The field for a message is as high as what is in it. */
function grow() {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight}px`;
}

function wire() {
  for (const view of VIEWS) {
    $(`tab-${view}`).onclick = () => show(view);
    $(`tab-${view}`).onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = VIEWS[(VIEWS.indexOf(view) + step + VIEWS.length) % VIEWS.length];
      show(next);
      $(`tab-${next}`).focus();
    };
  }
  $("open-side").onclick = () => showSide(true);
  $("close-side").onclick = $("cover").onclick = () => showSide(false);
  document.addEventListener("chat-opened", () => {
    showSide(false);
    show("chat");
  });
  $("new-chat").onclick = () => {
    chat.newChat();
    showSide(false);
    show("chat");
    $("prompt").focus();
  };
  $("model").onchange = () => settings.set("model", $("model").value);
  $("theme").onclick = () => {
    const theme = THEMES[(THEMES.indexOf(store.read("theme", "auto")) + 1) % THEMES.length];
    store.write("theme", theme);
    showTheme();
  };
  $("language").onclick = () => {
    switchLanguage();
    showAll();
  };

  $("open-settings").onclick = () => $("settings").showModal();
  $("close-settings").onclick = () => $("settings").close();
  // A click beside it closes it, too.
  $("settings").onclick = (event) => event.target === $("settings") && $("settings").close();
  for (const name of ["system", "key"]) {
    $(name).value = settings.setting(name) ?? "";
    $(name).oninput = () => settings.set(name, $(name).value.trim());
  }
  $("key").onchange = loadModels;
  $("reset").onclick = settings.reset;
  $("forget").onclick = () => confirm(word("forgetSure")) && chat.forgetAll();

  $("form").onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  $("prompt").oninput = () => {
    grow();
    chat.showButtons();
  };
  $("prompt").onkeydown = (event) => {
    // While an input method composes a character, Enter is its own.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  $("stop").onclick = chat.stop;
  $("to-end").onclick = chat.toEnd;
  $("scroll").onscroll = chat.showToEnd;
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || $("settings").open) return;
    if (document.body.classList.contains("with-side")) showSide(false);
    else chat.stop();
  });
  addEventListener("storage", (event) => event.key === "edgeward.chats" && chat.reload());
}

wire();
showAll();
loadModels();
monitor.start();
$("prompt").focus();
