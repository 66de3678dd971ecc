// The page: what a person does, what is shown, and the answer that is being written.

import { key, models, record, trace } from "./api.js";
import { endOfSentences, request } from "./asking.js";
import * as conversations from "./conversations.js";
import { element, iconButton } from "./dom.js";
import { showNoRecord, showRecord } from "./panel.js";
import { isSingle, loadSettings, openSettings, sampling, setLanguage, settings } from "./settings.js";
import { close, hasRoom, listenToSides, over, toggle } from "./sides.js";
import { AUTONYMS, chooseLanguage, fillTexts, language, loadTexts, text } from "./texts.js";
import { beginEdit, turn, updateAnswer } from "./turns.js";

const at = (id) => document.getElementById(id);

let conversation; // the one that is shown
let running = null; // {conversation, node, controller, began}
let model = {}; // {id, context}, as the server calls it
let made; // its record; null where the server has none

// ---------------------------------------------------------------------------------------------------- asking

function send() {
  const content = at("message").value.trim();
  if (!content || running) return;
  at("message").value = "";
  fit(at("message"));
  ask(conversations.shown(conversation).at(-1)?.id ?? null, content);
}

/** Ask a question below an answer (null: the first one). */
function ask(parent, content) {
  if (running) return;
  const question = conversations.add(conversation, parent, "user", content);
  rememberPlace();
  answer(question);
}

const acts = {
  edit: (node, content) => ask(node.parent, content),
  again(node) {
    const question = conversation.nodes[node.parent];
    const before = conversations.siblings(conversation, node).filter((each) => each.content).length;
    if (!node.content && node.chosen === null) conversations.remove(conversation, node); // it failed before it began
    answer(question, before);
  },
  show(node, step) {
    conversations.choose(conversation, node);
    keep(conversation);
    draw();
    const steps = [...shownTurn(node).querySelectorAll("[data-step]:not(:disabled)")];
    (steps.find((each) => each.dataset.step === step) ?? steps[0])?.focus();
  },
};

/** Have a question answered and show the answer as it comes. `again`: how many answers it has already. */
async function answer(question, again = 0) {
  const controller = new AbortController();
  const node = conversations.add(conversation, question.id, "assistant");
  Object.assign(node, { state: "running", asked: sampling(made?.generation ?? {}, { again }) });
  const mine = { conversation, node, controller, began: performance.now(), spoken: 0 };
  running = mine;
  keep(conversation);
  draw();
  toEnd();
  toMessage(); // the button that began this may be gone
  try {
    if (!model.id) await learn();
    const on = { content: (piece) => grow("content", piece), reasoning: (piece) => grow("reasoning", piece) };
    const { finish, usage } = await request(model, mine.conversation, node, question, on, controller.signal);
    node.state = finish === "length" || finish === "content_filter" ? "cut" : "";
    at("notice").hidden = true;
    if (usage) Object.assign(node, { tokens: usage.completion_tokens, total: usage.total_tokens });
  } catch (error) {
    ended(node, error);
  }
  node.seconds = (performance.now() - mine.began) / 1000;
  running = null;
  if (!mine.isForgotten) keep(mine.conversation);
  draw();
  speak(mine, true);
}

function ended(node, error) {
  if (error.name === "AbortError") node.state = "stopped";
  else if (error.kind === "key") askForKey(node);
  else if (error.kind === "busy") Object.assign(node, { state: "failed", message: text("busy", { seconds: error.seconds }) });
  else if (error.kind === "gone" || error.kind === "incomplete") node.state = error.kind;
  else {
    if (!error.kind) console.error(error); // a fault of this page, not of the server
    Object.assign(node, { state: "failed", message: error.message });
  }
}

const stop = () => running?.controller.abort();

/** Add a piece of the running answer; it is shown with the next picture that the screen draws. */
function grow(what, piece) {
  const { node } = running;
  node[what] = (node[what] ?? "") + piece;
  if (running.isDue) return;
  running.isDue = true;
  const mine = running;
  requestAnimationFrame(() => {
    mine.isDue = false;
    const shown = shownTurn(node);
    if (!shown || node.state !== "running") return;
    const follows = isAtEnd();
    updateAnswer(shown, node);
    if (follows) toEnd();
    speak(mine, false);
  });
}

/** Let a screen reader read whole sentences as they are there, not every piece. */
function speak(mine, isLast) {
  const rest = mine.node.content.slice(mine.spoken);
  const end = isLast ? rest.length : endOfSentences(rest);
  const words = rest.slice(0, end).trim();
  mine.spoken += end;
  const told = isLast && mine.node.state ? shownTurn(mine.node)?.querySelector(".state")?.textContent : "";
  for (const each of [words, told]) if (each) at("spoken").append(element("p", {}, each));
  while (at("spoken").children.length > 12) at("spoken").firstElementChild.remove();
}

// ---------------------------------------------------------------------------------------------------- the key

function askForKey(node = null) {
  if (node) Object.assign(node, { state: "failed", message: text("keyNeeded") });
  at("key-form").hidden = false;
  at("composer").hidden = true;
  at("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  key.set(at("key").value.trim());
  at("key").value = "";
  at("key-form").hidden = true;
  at("composer").hidden = false;
  at("message").focus();
  await meet();
  const last = conversations.shown(conversation).at(-1);
  if (at("key-form").hidden && last?.role === "assistant" && last.state === "failed" && !last.content) acts.again(last);
}

/** Greet the server; what keeps it from answering is told. */
async function meet() {
  try {
    await learn();
    at("notice").hidden = true;
  } catch (error) {
    if (error.kind === "key") askForKey();
    else notify(error.kind === "gone" ? text("gone") : error.message);
  }
}

/** Learn which model the server has, and what that is made of. Throws a Failure. */
async function learn() {
  [model = {}] = await models();
  made = await record().catch(() => null); // a server of another make has none
  acts.trace = made?.trace?.index ? trace : null;
  drawRecord();
  if (acts.trace) draw();
}

function drawRecord() {
  const name = made?.release.title ?? model.id;
  at("title").textContent = name || "Hanse";
  document.title = name ? `${name} · Hanse` : "Hanse";
  at("mode").hidden = !isSingle(model);
  if (made) showRecord(at("record"), made);
  else if (made === null) showNoRecord(at("record"), text("notRecorded"));
}

// ---------------------------------------------------------------------------------------------------- drawing

/** Bring the page up to what is known. A turn that did not change keeps its element, and so focus and selection in it. */
function draw() {
  const nodes = conversations.shown(conversation);
  const there = new Map([...at("log").children].map((each) => [each.dataset.node, each]));
  const turns = nodes.map((node) => {
    const beside = conversations.siblings(conversation, node);
    const look = JSON.stringify([node, beside.length, beside.indexOf(node), language(), Boolean(acts.trace)]);
    const old = there.get(node.id);
    if (old?.look === look) return old;
    const fresh = turn(conversation, node, acts);
    fresh.look = look;
    if (old?.querySelector("details[open]")) fresh.querySelector("details")?.setAttribute("open", "");
    return fresh;
  });
  at("log").replaceChildren(...turns);
  for (const button of at("log").querySelectorAll(".starts")) button.disabled = running !== null;
  at("welcome").hidden = nodes.length > 0;
  at("send").hidden = running !== null;
  at("stop").hidden = running === null;
  drawList();
}

function drawList() {
  const found = conversations.all();
  at("list").replaceChildren(...found.map((each) => element("li", { class: each.id === conversation.id ? "current" : null },
    element("button", { type: "button", class: "entry", dir: "auto", "aria-current": each.id === conversation.id ? "true" : null, onclick: () => open(each.id) }, each.title || "…"),
    iconButton("trash", `${text("delete")}: ${each.title}`, () => askToDelete(each)))));
  at("export").disabled = found.length === 0;
}

function drawTongues() {
  at("tongues").replaceChildren(...Object.entries(AUTONYMS).map(([code, name]) => element("li", {},
    element("button", { type: "button", lang: code, "aria-pressed": String(code === language()), onclick: () => speakIn(code) }, name))));
}

function speakIn(code) {
  setLanguage(code);
  drawWords();
  [...at("tongues").querySelectorAll("button")].find((each) => each.lang === code)?.focus();
}

function drawWords() {
  fillTexts();
  drawTongues();
  drawRecord();
  draw();
}

function notify(words) {
  at("notice").textContent = words;
  at("notice").hidden = false;
}

const shownTurn = (node) => at("log").querySelector(`[data-node="${node.id}"]`);
const isAtEnd = () => at("scroll").scrollHeight - at("scroll").scrollTop - at("scroll").clientHeight < 80;
const toEnd = () => at("scroll").scrollTo({ top: at("scroll").scrollHeight });

/** Ready to type; on a phone that would raise the keyboard over what is to be read. */
const toMessage = () => hasRoom("conversations") && at("message").focus();

/** As high as its text, up to what the style sheet allows. */
function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

// ---------------------------------------------------------------------------------------------------- conversations

function keep(which) {
  which.changed = new Date().toISOString();
  try {
    conversations.save(which);
  } catch {
    notify(text("full"));
  }
}

/** The conversation of an id; one that is being answered is the very object into which the answer is written. */
function find(id) {
  const found = running?.conversation.id === id ? running.conversation : conversations.load(id);
  for (const node of Object.values(found?.nodes ?? {})) {
    // The page was closed while the answer came.
    if (node.state === "running" && node !== running?.node) node.state = "incomplete";
  }
  return found;
}

function open(id) {
  const found = find(id);
  if (!found) return drawList();
  conversation = found;
  if (over() === "conversations") toggle("conversations", false);
  rememberPlace();
  draw();
  toEnd();
  toMessage();
}

function begin() {
  conversation = conversations.newConversation(settings.system);
  if (over() === "conversations") toggle("conversations", false);
  rememberPlace();
  draw();
  toMessage();
}

/** The address names the conversation, so that reloading comes back to it. */
function rememberPlace() {
  const isBegun = conversation.chosen !== null;
  history.replaceState(null, "", isBegun ? `#${conversation.id}` : location.pathname + location.search);
}

function askToDelete(which) {
  const dialog = at("delete-dialog");
  at("delete-name").textContent = which.title;
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "delete") return;
    if (running?.conversation.id === which.id) {
      running.isForgotten = true;
      stop();
    }
    conversations.forget(which.id);
    if (which.id === conversation.id) begin();
    else draw();
  };
  dialog.showModal();
}

function exportAll() {
  const address = URL.createObjectURL(new Blob([conversations.exported()], { type: "application/json" }));
  const link = element("a", { href: address, download: `hanse-${new Date().toISOString().slice(0, 10)}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

async function importFile() {
  const [file] = at("file").files;
  if (!file) return;
  try {
    conversations.importAll(await file.text());
    at("notice").hidden = true;
  } catch (error) {
    notify(text(error instanceof conversations.Full ? "full" : "badFile"));
  }
  at("file").value = "";
  draw();
}

// ---------------------------------------------------------------------------------------------------- events

function onKey(event) {
  if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) {
    if (over()) close(over());
    else stop();
  } else if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey) {
    const act = { k: begin, i: () => (at("panel").hidden ? toggle("panel") : close("panel")) }[event.key.toLowerCase()];
    if (!act || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    act();
  }
}

function onMessageKey(event) {
  if (event.isComposing) return; // Enter ends the composition of a character
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && event.target.value === "" && !running) {
    const last = conversations.shown(conversation).findLast((each) => each.role === "user");
    if (!last) return;
    event.preventDefault();
    beginEdit(shownTurn(last), last, acts);
  }
}

const showSettings = () =>
  openSettings(at("settings-dialog"), { conversation, model, suggested: made?.generation ?? {} }, onSetting);

function onSetting(name, value) {
  at("mode").hidden = !isSingle(model);
  if (name === "language") {
    setLanguage(value);
    drawWords();
  } else if (name === "system") {
    conversation.system = value;
    if (conversations.shown(conversation).length) keep(conversation);
  }
}

function onElsewhere({ key: name }) {
  if (!conversations.isOurs(name)) return;
  const fresh = running ? null : conversations.load(conversation.id);
  if (fresh && fresh.changed > conversation.changed) {
    conversation = fresh;
    draw();
  } else drawList();
}

function listen() {
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  at("message").addEventListener("keydown", onMessageKey);
  at("message").addEventListener("input", ({ target }) => fit(target));
  at("stop").addEventListener("click", stop);
  at("key-form").addEventListener("submit", useKey);
  at("new").addEventListener("click", begin);
  at("export").addEventListener("click", exportAll);
  at("import").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", importFile);
  for (const id of ["open-settings", "mode"]) at(id).addEventListener("click", showSettings);
  document.addEventListener("keydown", onKey);
  addEventListener("storage", onElsewhere);
  addEventListener("pagehide", () => running && keep(running.conversation));
}

async function start() {
  loadSettings();
  conversation = find(location.hash.slice(1)) ?? conversations.newConversation(settings.system);
  listenToSides();
  listen();
  await loadTexts();
  chooseLanguage(settings.language);
  drawWords();
  toEnd();
  toMessage();
  await meet();
}

start();
