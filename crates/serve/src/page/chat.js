// The chat: what was said, kept in the browser, and what is being said.
//
// Chats are `[{ id, messages: [{ role, content, note?, isWrong? }] }]`, the latest first. One answer is made at a time;
// while it is, others may be read. A piece of an answer changes its own message only, once for each picture of the
// screen.

import { $, copy, element, icon, store } from "./dom.js";
import { markdown } from "./markdown.js";
import { headers, samplerFields, setting } from "./settings.js";
import { word } from "./words.js";

const MAX_CHATS = 100;

/** What the browser has kept; whatever is no chat of ours is left out. */
function kept() {
  const all = store.read("chats", []);
  return Array.isArray(all) ? all.filter((chat) => Array.isArray(chat?.messages) && chat.messages.every((message) => typeof message?.content === "string")) : [];
}

let chats = kept();
let currentId = null;
/** `{ chat, message, control, node, isDrawn }` while there is one. */
let answering = null;

const current = () => chats.find((chat) => chat.id === currentId);

function keep() {
  chats = chats.slice(0, MAX_CHATS);
  let isFull = false;
  while (!store.write("chats", chats) && chats.length > 1) {
    chats.pop();
    isFull = true;
  }
  if (isFull) showTrouble(word("full"));
}

/** Another tab has changed the chats. */
export function reload() {
  if (answering) return;
  chats = kept();
  show();
}

export function forgetAll() {
  stop();
  chats = [];
  currentId = null;
  keep();
  show();
}

export function open(id) {
  currentId = id;
  showTrouble("");
  show();
}

export const newChat = () => open(null);

export const stop = () => answering?.control.abort();

// ---- What is seen

/** All of it, anew. */
export function show() {
  showChats();
  showMessages();
  showButtons();
}

export function showTrouble(text) {
  $("trouble").hidden = !text;
  $("trouble").replaceChildren(...(text ? [icon("warning"), text] : []));
}

function showChats() {
  $("no-chats").hidden = chats.length > 0;
  $("chats").replaceChildren(...chats.map((chat) => {
    const title = chat.messages[0]?.content.slice(0, 80) || word("newChat");
    const button = element("button", { class: "plain", title, "aria-current": chat.id === currentId ? "true" : null }, title);
    button.onclick = () => {
      open(chat.id);
      document.dispatchEvent(new Event("chat-opened"));
    };
    const remove = element("button", { class: "plain icon remove", "aria-label": `${word("remove")}: ${title}`, title: word("remove") }, icon("remove"));
    remove.onclick = () => {
      if (answering?.chat === chat) stop();
      chats = chats.filter((other) => other !== chat);
      if (currentId === chat.id) currentId = null;
      keep();
      show();
      $("new-chat").focus();
    };
    return element("li", {}, button, remove);
  }));
}

function showMessages() {
  const messages = current()?.messages ?? [];
  $("empty").hidden = messages.length > 0;
  $("view-chat").classList.toggle("is-empty", messages.length === 0);
  $("ideas").replaceChildren(...word("ideas").map(([title, text]) => {
    const button = element("button", {}, element("b", {}, title), element("span", {}, text));
    button.onclick = () => ask(text);
    return button;
  }));
  $("messages").replaceChildren(...messages.map((message, i) => showMessage(message, i === messages.length - 1)));
  toEnd();
}

function showMessage(message, isLast) {
  const isOfUser = message.role === "user";
  const body = element("div", { class: "body" });
  const node = element("article", { class: isOfUser ? "user" : "assistant", "aria-label": word(isOfUser ? "you" : "model") }, body);
  if (isOfUser) {
    body.textContent = message.content;
    return node;
  }
  if (answering?.message === message) {
    answering.node = node;
    node.classList.add("growing");
    node.setAttribute("aria-busy", "true");
  }
  fill(body, message);
  if (message.isWrong) {
    node.append(element("div", { class: "trouble" }, icon("warning"), element("div", {}, element("b", {}, word("failed")), " ", message.note)));
  }
  if (answering?.message !== message) {
    const tools = element("div", { class: "message-tools" });
    if (message.content) tools.append(tool("copy", "copy", (button) => copied(button, message.content)));
    if (isLast && !answering) tools.append(tool("again", message.isWrong ? "retry" : "again", again));
    if (message.note && !message.isWrong) tools.append(element("span", { class: "soft" }, message.note));
    node.append(tools);
  }
  return node;
}

function fill(body, message) {
  if (message.content) body.replaceChildren(...markdown(message.content));
  else if (answering?.message === message) {
    body.replaceChildren(element("span", { class: "dots", role: "img", "aria-label": word("thinking") }, element("i"), element("i"), element("i")));
  } else body.replaceChildren();
}

function tool(name, label, action) {
  const button = element("button", { class: "plain small", type: "button" }, icon(name), word(label));
  button.onclick = () => action(button);
  return button;
}

async function copied(button, text) {
  await copy(text);
  button.replaceChildren(icon("done"), word("copied"));
  setTimeout(() => button.replaceChildren(icon("copy"), word("copy")), 1500);
}

export function showButtons() {
  $("send").hidden = answering !== null;
  $("stop").hidden = answering === null;
  $("send").disabled = !$("prompt").value.trim() || !setting("model");
}

const isAtEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 48;

export function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  showToEnd();
}

export const showToEnd = () => ($("to-end").hidden = isAtEnd());

/** Draws what has come of the answer, before the next picture of the screen. */
function draw() {
  if (!answering || answering.isDrawn) return;
  answering.isDrawn = true;
  requestAnimationFrame(() => {
    if (!answering) return;
    answering.isDrawn = false;
    if (answering.chat.id !== currentId) return;
    const wasAtEnd = isAtEnd();
    fill(answering.node.querySelector(".body"), answering.message);
    if (wasAtEnd) toEnd();
    else showToEnd();
  });
}

/** Says something to those who do not see. */
const say = (text) => ($("said").textContent = text);

// ---- What is asked

/** Asks in the chat that is open. */
export function ask(text) {
  if (answering || !setting("model")) return;
  let chat = current();
  if (!chat) {
    chat = { id: `${Date.now()}`, messages: [] };
    currentId = chat.id;
  }
  chats = [chat, ...chats.filter((other) => other !== chat)];
  chat.messages.push({ role: "user", content: text });
  answer(chat);
}

/** The last answer is made once more. */
function again() {
  const chat = current();
  if (answering || !chat) return;
  if (chat.messages.at(-1).role === "assistant") chat.messages.pop();
  answer(chat);
}

async function answer(chat) {
  const history = chat.messages.filter((message) => message.content && !message.isWrong);
  const messages = history.map(({ role, content }) => ({ role, content }));
  if (setting("system")) messages.unshift({ role: "system", content: setting("system") });
  const message = { role: "assistant", content: "" };
  chat.messages.push(message);
  answering = { chat, message, control: new AbortController(), node: null, isDrawn: false };
  showTrouble("");
  show();
  toEnd();
  say(word("answering"));
  try {
    message.note = await receive({ ...samplerFields(), model: setting("model"), messages }, message, answering.control.signal);
  } catch (error) {
    if (error.name === "AbortError") message.note = word("stopped");
    else {
      message.isWrong = true;
      message.note = error instanceof TypeError ? word(message.content ? "broken" : "unreachable") : error.message;
    }
  }
  const hadFocus = document.activeElement === $("stop") || document.activeElement === document.body;
  const wasAtEnd = isAtEnd();
  const top = $("scroll").scrollTop;
  answering = null;
  keep();
  show();
  if (chat.id === currentId && !wasAtEnd) $("scroll").scrollTop = top;
  say(message.isWrong ? `${word("failed")} ${message.note}` : word("complete") + message.content);
  if (hadFocus) $("prompt").focus();
}

/** Puts the answer into `message` as it comes; what there is to say of it. */
async function receive(fields, message, signal) {
  const started = performance.now();
  const body = JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } });
  const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal });
  if (!response.ok) throw new Error(await reason(response));
  let first = null;
  let usage = null;
  let end = null;
  for await (const piece of pieces(response.body)) {
    if (piece.error) throw new Error(piece.error.message);
    usage = piece.usage ?? usage;
    const choice = piece.choices[0];
    end = choice?.finish_reason ?? end;
    if (!choice?.delta.content) continue;
    first ??= performance.now();
    message.content += choice.delta.content;
    draw();
  }
  if (end === null) throw new TypeError("the stream has ended early");
  if (first === null) return word("empty");
  const seconds = (performance.now() - first) / 1000;
  const n = usage?.completion_tokens ?? 0;
  const rate = n > 1 && seconds > 0 ? ((n - 1) / seconds).toFixed(0) : "–";
  const stats = word("stats")(n, rate, ((first - started) / 1000).toFixed(2));
  return end === "length" ? `${stats} · ${word("cut")}` : stats;
}

/** The JSON of each event of a stream. */
async function* pieces(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

/** What a response that is none says. */
export async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}
