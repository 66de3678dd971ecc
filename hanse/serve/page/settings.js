// What a person set: language, appearance, and how answers are drawn. Kept in the browser.

import { AUTONYMS, chooseLanguage, language, text } from "./texts.js";

const KEPT = "hanse.settings";
const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
/** Drawing at temperature 0 gives the same answer again; an answer that is asked for again is drawn at this one. */
const AGAIN = 0.7;

export const settings = { language: "", theme: "auto", answerLanguage: "", system: "", single: null, panel: null, conversations: null };

/** Read what was kept. What has another type was written by something else and is left out. */
export function loadSettings() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    for (const name of ["language", "theme", "answerLanguage", "system"]) {
      if (typeof kept[name] === "string") settings[name] = kept[name];
    }
    for (const name of ["single", "panel", "conversations"]) if (typeof kept[name] === "boolean") settings[name] = kept[name];
    for (const name of NUMBERS) if (Number.isFinite(kept[name])) settings[name] = kept[name];
  } catch {
    // The defaults hold.
  }
}

export function keepSettings(changes) {
  Object.assign(settings, changes);
  try {
    localStorage.setItem(KEPT, JSON.stringify(settings));
  } catch {
    // They hold until the page is closed.
  }
}

/** A model that sees fewer tokens at once cannot hold a conversation. */
const SHORTEST_FOR_CONVERSATIONS = 1024;

/** Whether each question goes to the model without what was said before: as was set, else by the model's context. */
export const isSingle = (model) => settings.single ?? model.context < SHORTEST_FOR_CONVERSATIONS;

/** The sampling of the next request: what was set, else what the release asks for, else nothing: the server's defaults. */
export function sampling(suggested, { again = 0 } = {}) {
  const found = { ...suggested };
  for (const name of NUMBERS) if (settings[name] !== undefined) found[name] = settings[name];
  if (again > 0) {
    if (found.temperature === 0) found.temperature = AGAIN;
    if (found.seed !== undefined) found.seed += again;
  }
  return found;
}

/** Fill the form and keep what is changed in it. `changed` is called with the name of what changed. */
export function openSettings(dialog, { conversation, model, suggested }, changed) {
  const form = dialog.querySelector("form");
  const { elements } = form;
  fillLanguages(elements.language, language());
  fillLanguages(elements.answerLanguage, settings.answerLanguage, text("automatic"));
  elements.theme.value = settings.theme;
  elements.system.value = conversation.system;
  elements.single.checked = isSingle(model);
  for (const name of NUMBERS) {
    elements[name].value = settings[name] ?? "";
    elements[name].placeholder = suggested[name] ?? "";
  }
  form.onchange = ({ target }) => {
    if (!target.checkValidity()) return void target.reportValidity();
    if (NUMBERS.includes(target.name)) {
      keepSettings({ [target.name]: target.value === "" ? undefined : target.valueAsNumber });
    } else keepSettings({ [target.name]: target.type === "checkbox" ? target.checked : target.value });
    if (target.name === "theme") showTheme();
    changed(target.name, target.value);
  };
  dialog.showModal();
}

/** Show the page in a language and keep that. */
export function setLanguage(code) {
  keepSettings({ language: chooseLanguage(code) });
}

function fillLanguages(select, chosen, first = null) {
  const options = Object.entries(AUTONYMS).map(([code, name]) => new Option(name, code, false, code === chosen));
  for (const option of options) option.lang = option.value;
  select.replaceChildren(...(first === null ? [] : [new Option(first, "", false, chosen === "")]), ...options);
}

function showTheme() {
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
}
