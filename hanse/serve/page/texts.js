// The words of the page in the 24 official languages of the European Union, and numbers as each language writes them.

const FALLBACK = "en";
/** The languages' own names, in the order of their codes, as in the treaties' language versions. */
export const AUTONYMS = {
  bg: "български", cs: "čeština", da: "dansk", de: "Deutsch", el: "Ελληνικά", en: "English", es: "español",
  et: "eesti", fi: "suomi", fr: "français", ga: "Gaeilge", hr: "hrvatski", hu: "magyar", it: "italiano",
  lt: "lietuvių", lv: "latviešu", mt: "Malti", nl: "Nederlands", pl: "polski", pt: "português", ro: "română",
  sk: "slovenčina", sl: "slovenščina", sv: "svenska",
};

let texts = {};
let chosen = FALLBACK;
let locale = FALLBACK; // with the region, which decides how a day is written

/** Fetch every text. Without them the page shows the names of the texts, and still works. */
export async function loadTexts() {
  try {
    const answer = await fetch("texts.json");
    if (answer.ok) texts = await answer.json();
  } catch {
    // The server is gone; the first request to it says so.
  }
}

/** The language to show: the one that was chosen, else the first of the browser's that is ours, else English. */
export function chooseLanguage(wanted) {
  const asked = [wanted, ...(navigator.languages ?? [])].filter(Boolean).map((tag) => tag.toLowerCase().split("-")[0]);
  chosen = asked.find((code) => Object.hasOwn(AUTONYMS, code)) ?? FALLBACK;
  locale = (navigator.languages ?? []).find((tag) => tag.split("-")[0] === chosen) ?? (chosen === "en" ? "en-IE" : chosen);
  document.documentElement.lang = chosen;
  return chosen;
}

export const language = () => chosen;

/** A text in the page's language, with `{name}` replaced by `values.name`. */
export function text(name, values = {}) {
  const found = texts[chosen]?.[name] ?? texts[FALLBACK]?.[name] ?? name;
  return found.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

/** The sentence that asks a model to answer in a language, in that language. */
export const answerIn = (code) => texts[code]?.answerIn ?? "";

/** Put the texts into every element that names one in data-text, data-label or data-placeholder. */
export function fillTexts(root = document) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) label(element, text(element.dataset.label));
  for (const element of root.querySelectorAll("[data-placeholder]")) {
    element.placeholder = text(element.dataset.placeholder);
  }
}

/** Name an element without visible words for a screen reader, and for whoever points at it. */
export function label(element, words) {
  element.setAttribute("aria-label", words);
  if (element.matches("button")) element.title = words;
}

export const number = (value, options) => new Intl.NumberFormat(locale, options).format(value);

export const percent = (share) =>
  number(share, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** 2853184 as "2.9M", in the page's language. */
export const compact = (value) =>
  // Without the region: British English writes a million as "m", like a metre.
  new Intl.NumberFormat(chosen, { notation: "compact", maximumSignificantDigits: 3 }).format(value);

export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  const options = { style: "unit", unit: units[step], unitDisplay: "short", maximumFractionDigits: step ? 1 : 0 };
  return number(value / 1000 ** step, options);
}

/** The name of a language in the page's language; its code where the browser knows none. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames([locale], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

/** A day as the page's language writes it; the text itself where it is no time. */
export function day(stamp) {
  const time = new Date(stamp);
  return Number.isNaN(time.getTime()) ? stamp : new Intl.DateTimeFormat(locale, { dateStyle: "medium" }).format(time);
}
