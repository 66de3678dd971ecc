// Questions and answers as elements.

import { siblings } from "./conversations.js";
import { element, icon, iconButton, toClipboard } from "./dom.js";
import { showOrigins } from "./origins.js";
import { renderInto } from "./render.js";
import { number, text } from "./texts.js";

/** How an answer ended, where a person should know; the text of each state. */
const STATES = { stopped: "stopped", cut: "cut", incomplete: "incomplete", gone: "gone" };
const STARTS = { class: "icon-button starts" };

/**
 * The element of one node. `acts` holds what its buttons do: edit(node, content), again(node), show(node), and
 * trace(content) where the server has an index of the training texts.
 * Buttons of the class `starts` start an answer; whoever draws the page disables them while one is being written.
 */
export function turn(conversation, node, acts) {
  const made = node.role === "user" ? question(node, acts) : answer(node);
  made.dataset.node = node.id;
  const actions = element("div", { class: "actions" });
  if (node.state !== "running") {
    if (node.content) actions.append(copyButton(node));
    if (node.role === "user") {
      actions.append(iconButton("edit", text("edit"), () => beginEdit(made, node, acts), STARTS));
    } else {
      actions.append(iconButton("again", text("again"), () => acts.again(node), STARTS));
    }
    actions.append(...branches(conversation, node, acts));
    if (node.role === "assistant" && node.content && acts.trace) actions.append(originButton(made, node, acts));
    if (node.role === "assistant") actions.append(effort(node));
  }
  made.append(actions);
  return made;
}

function question(node) {
  const heading = element("h3", { class: "hidden" }, text("question"));
  return element("article", { class: "turn question" }, heading, element("div", { class: "bubble", dir: "auto" }, node.content));
}

function answer(node) {
  const heading = element("h3", { class: "hidden" }, text("answer"));
  // The language of an answer is not known; an empty `lang` keeps a screen reader from reading it in the page's.
  const made = element("article", { class: "turn answer" }, heading, element("div", { class: "words", dir: "auto", lang: "" }));
  updateAnswer(made, node);
  return made;
}

/** Bring the element of an answer up to what the node holds by now. */
export function updateAnswer(made, node) {
  const words = made.querySelector(".words");
  const isRunning = node.state === "running";
  made.classList.toggle("running", isRunning);
  made.setAttribute("aria-busy", String(isRunning));
  renderInto(words, node.content);
  if (node.reasoning) {
    let folded = made.querySelector(".reasoning");
    if (!folded) {
      folded = element("details", { class: "reasoning" },
        element("summary", {}, text("reasoning")), element("div", { class: "thoughts", dir: "auto", lang: "" }));
      words.before(folded);
    }
    folded.querySelector(".thoughts").textContent = node.reasoning.trim();
  }
  made.querySelector(".dots")?.remove();
  if (isRunning && !node.content) words.append(element("span", { class: "dots", "aria-hidden": "true" }, element("i"), element("i"), element("i")));
  made.querySelectorAll(".state").forEach((each) => each.remove());
  for (const state of states(node).reverse()) words.after(state);
}

function states(node) {
  const lines = [];
  const told = Object.hasOwn(STATES, node.state ?? "") ? text(STATES[node.state]) : node.message;
  if (node.state === "stopped") lines.push(element("p", { class: "state quiet" }, told));
  else if (told) lines.push(element("p", { class: "state" }, icon("warning"), element("span", {}, told)));
  if (node.from) lines.push(element("p", { class: "state quiet" }, text("shortened")));
  return lines;
}

function copyButton(node) {
  const button = iconButton("copy", text("copy"), async () => {
    if (!(await toClipboard(node.content))) return;
    button.replaceChildren(icon("check"));
    document.getElementById("spoken").append(element("p", {}, text("copied")));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Opens and closes, below the answer, where its passages stand in the training texts. */
function originButton(made, node, acts) {
  const button = iconButton("origin", text("origin"), async () => {
    const shown = made.querySelector(".origins");
    button.setAttribute("aria-expanded", String(!shown));
    if (shown) return shown.remove();
    const place = element("section", { class: "origins", role: "region", "aria-label": text("origin"), "aria-busy": "true" });
    made.append(place);
    try {
      showOrigins(place, await acts.trace(node.content));
    } catch (error) {
      place.replaceChildren(element("p", { class: "quiet small" }, error.kind === "gone" ? text("gone") : error.message));
    }
    place.removeAttribute("aria-busy");
  }, { "aria-expanded": "false" });
  return button;
}

/** "‹ 2/3 ›" where a question was edited or an answer asked for again. */
function branches(conversation, node, acts) {
  const beside = siblings(conversation, node);
  if (beside.length < 2) return [];
  const at = beside.indexOf(node);
  const what = text(node.role === "user" ? "question" : "answer");
  const step = (drawing, to) =>
    iconButton(drawing, `${what} ${to + 1}/${beside.length}`, () => acts.show(beside[to], drawing), { disabled: !beside[to], "data-step": drawing });
  return [element("span", { class: "branches" }, step("left", at - 1), element("span", {}, `${at + 1}/${beside.length}`), step("right", at + 1))];
}

function effort(node) {
  const parts = [];
  if (node.tokens) parts.push(`${number(node.tokens)} tokens`);
  if (node.tokens && node.seconds) parts.push(`${number(node.seconds, { maximumFractionDigits: 1 })} s`);
  if (node.asked?.temperature) parts.push(`temperature ${number(node.asked.temperature)}`);
  return element("span", { class: "effort" }, parts.join(" · "));
}

/** Put a field in the place of the question. Escape and the second button leave it as it was. */
export function beginEdit(made, node, acts) {
  const bubble = made.querySelector(".bubble");
  const actions = made.querySelector(".actions");
  const field = element("textarea", { "aria-label": text("edit"), dir: "auto", rows: Math.min(8, node.content.split("\n").length + 1) });
  field.value = node.content;
  const end = () => {
    form.remove();
    bubble.hidden = actions.hidden = false;
    actions.querySelector("button")?.focus();
  };
  const form = element("form", {
    class: "edit",
    onsubmit: (event) => {
      event.preventDefault();
      if (field.value.trim()) acts.edit(node, field.value.trim());
    },
    onkeydown: (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    },
  }, field, element("div", { class: "row end" },
    element("button", { type: "button", class: "secondary", onclick: end }, text("cancel")),
    element("button", { type: "submit", class: "primary" }, text("send"))));
  bubble.hidden = actions.hidden = true;
  bubble.after(form);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
