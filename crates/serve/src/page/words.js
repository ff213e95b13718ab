// What the page says, in English and Chinese.

import { store } from "./dom.js";

const EN = {
  skip: "Skip to the message", side: "Chats and settings", openSide: "Show chats", closeSide: "Hide chats", views: "Views",
  chat: "Chat", monitor: "Monitor", language: "Switch to Chinese", other: "中文",
  theme: { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" },
  newChat: "New chat", history: "Chats", noChats: "What you talk about is kept in this browser only.", model: "Model", noModel: "No model",
  greeting: "What would you like to know?", here: "The model runs on this machine. Nothing you write leaves it.",
  there: (host) => `The model runs on ${host}. What you write goes there, and nowhere else.`,
  ideas: [
    ["Explain", "Explain why the sky is blue, to a child of ten"],
    ["Write", "Write a short, friendly note that cancels dinner on Friday"],
    ["Plan", "Plan a quiet Sunday in a small town, hour by hour"],
    ["Program", "Write a Python function that finds the median of a list"],
  ],
  conversation: "Conversation", message: "Message", hint: "Write a message", send: "Send", stop: "Stop", toEnd: "To the end",
  keys: "Enter sends, Shift+Enter breaks the line, Escape stops. Small models are often wrong: check what matters.",
  you: "You", remove: "Delete", copy: "Copy", copied: "Copied", copyCode: "Copy code", again: "Answer again", retry: "Try again",
  answering: "The model is answering", stopped: "Stopped", complete: "Answer: ", thinking: "Reading…",
  stats: (n, rate, first) => `${n} tokens · ${rate} tokens/s · first after ${first} s`,
  cut: "Cut off: the limit of tokens was reached. You can raise it in the settings.", empty: "The model had nothing to say.",
  failed: "There is no answer", unreachable: "The server cannot be reached. Is it still running?", broken: "The answer broke off.",
  full: "The browser has no room left for chats: the oldest were dropped.",
  settings: "Settings", close: "Close", system: "Instructions to the model", systemHint: "You are a helpful assistant.",
  temperature: "Temperature", temperatureNote: "0 always takes the likeliest word; higher is freer.",
  top_p: "Top-p", top_pNote: "Only the likeliest words that make up this share.",
  min_p: "Min-p", min_pNote: "Only words at least this likely, compared with the likeliest.",
  top_k: "Top-k", top_kNote: "Only so many of the likeliest words; 0 for all.",
  repetition_penalty: "Repetition penalty", repetition_penaltyNote: "Above 1, words already used are less likely.",
  max_tokens: "Longest answer, tokens", max_tokensNote: "A token is about three quarters of a word.",
  seed: "Seed", seedNote: "With the same seed, the same answer. Empty: by chance.",
  key: "API key", keyNote: "Only needed if the server asks for one. It is kept in this browser.", reset: "Reset", forget: "Delete all chats",
  forgetSure: "Delete all chats? They cannot be brought back.",
  monitorTitle: "What the server is doing", models: "Models", live: "Live, every second", waiting: "Waiting for the server…", away: "No connection",
  noMonitor: "The monitor cannot be read", ago: "2 min ago", now: "now", tokensOfContext: (n) => `${n} tokens of context`, secondsAgo: (s) => `${s} s ago`,
  rate: "Tokens per second", prompt: "Prompt tokens per second", ttft: "Time to first token", gap: "Time between tokens", queue: "Requests", hits: "Prompts found in the cache",
  memory: "Memory of the server", kv: "Keys and values", heat: "Temperature", active: "under way", queued: "waiting", reserved: "in use", cache: "cache",
  chart: (name, now, least, most) => `${name}: now ${now}; in the last two minutes from ${least} to ${most}`, nothing: "nothing yet",
};

const ZH = {
  skip: "跳到输入框", side: "对话与设置", openSide: "显示对话列表", closeSide: "隐藏对话列表", views: "视图",
  chat: "聊天", monitor: "监控", language: "切换到英文", other: "English",
  theme: { auto: "颜色：跟随系统", light: "颜色：浅色", dark: "颜色：深色" },
  newChat: "新对话", history: "对话", noChats: "对话内容只保存在这个浏览器里。", model: "模型", noModel: "没有模型",
  greeting: "想聊点什么？", here: "模型运行在这台机器上，你写的内容不会离开它。",
  there: (host) => `模型运行在 ${host} 上，你写的内容只会发送到那里。`,
  ideas: [
    ["解释", "给十岁的孩子解释天空为什么是蓝色的"],
    ["写作", "写一张简短友好的便条，取消星期五的晚餐"],
    ["计划", "按小时安排小镇上一个安静的星期天"],
    ["编程", "写一个求列表中位数的 Python 函数"],
  ],
  conversation: "对话内容", message: "消息", hint: "输入消息", send: "发送", stop: "停止", toEnd: "跳到末尾",
  keys: "回车发送，Shift+回车换行，Esc 停止。小模型常会出错，重要内容请核实。",
  you: "你", remove: "删除", copy: "复制", copied: "已复制", copyCode: "复制代码", again: "重新回答", retry: "重试",
  answering: "模型正在回答", stopped: "已停止", complete: "回答：", thinking: "正在阅读…",
  stats: (n, rate, first) => `${n} 个 token · 每秒 ${rate} 个 · 首个用时 ${first} 秒`,
  cut: "已截断：达到 token 上限，可在设置中调高。", empty: "模型没有给出内容。",
  failed: "没有得到回答", unreachable: "无法连接服务器。它还在运行吗？", broken: "回答中途断开了。",
  full: "浏览器的存储空间已满：最早的对话已被删除。",
  settings: "设置", close: "关闭", system: "给模型的指示", systemHint: "你是一个乐于助人的助手。",
  temperature: "温度", temperatureNote: "0 总是取最可能的词；越高越自由。",
  top_p: "Top-p", top_pNote: "只在累计概率达到此值的最可能的词中选择。",
  min_p: "Min-p", min_pNote: "只考虑与最可能的词相比不低于此比例的词。",
  top_k: "Top-k", top_kNote: "只考虑这么多个最可能的词；0 表示全部。",
  repetition_penalty: "重复惩罚", repetition_penaltyNote: "大于 1 时，已用过的词更不容易再出现。",
  max_tokens: "回答最多的 token 数", max_tokensNote: "一个 token 约等于半个到一个汉字。",
  seed: "随机种子", seedNote: "种子相同，回答相同。留空则随机。",
  key: "API 密钥", keyNote: "仅在服务器要求时需要，保存在这个浏览器里。", reset: "恢复默认", forget: "删除全部对话",
  forgetSure: "删除全部对话？此操作无法撤销。",
  monitorTitle: "服务器状态", models: "模型", live: "实时，每秒更新", waiting: "正在等待服务器…", away: "没有连接",
  noMonitor: "无法读取监控数据", ago: "2 分钟前", now: "现在", tokensOfContext: (n) => `上下文 ${n} 个 token`, secondsAgo: (s) => `${s} 秒前`,
  rate: "每秒生成的 token", prompt: "每秒处理的提示 token", ttft: "首个 token 用时", gap: "相邻 token 间隔", queue: "请求", hits: "提示的缓存命中率",
  memory: "服务器内存", kv: "键值内存", heat: "温度", active: "进行中", queued: "排队", reserved: "使用中", cache: "缓存",
  chart: (name, now, least, most) => `${name}：现在 ${now}；最近两分钟 ${least} 到 ${most}`, nothing: "暂无数据",
};

const WORDS = { en: EN, zh: ZH };

let current = store.read("language", navigator.language?.startsWith("zh") ? "zh" : "en");
if (!WORDS[current]) current = "en";

/** A text of the page; some are functions, lists or tables. */
export const word = (name) => WORDS[current][name];

/** All names, by language: for a test that none is missing. */
export const names = () => Object.fromEntries(Object.entries(WORDS).map(([language, words]) => [language, Object.keys(words)]));

export function switchLanguage() {
  current = current === "en" ? "zh" : "en";
  store.write("language", current);
}

/** Puts the words of the language where the page has places for them. */
export function translate() {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = word(node.dataset.text);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = word(node.dataset.hint);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", word(node.dataset.label));
    if (node.localName === "button") node.title = word(node.dataset.label);
  }
  const button = document.getElementById("language");
  button.textContent = word("other");
  button.lang = current === "zh" ? "en" : "zh-CN";
}
