// Where the passages of an answer stand word for word in the training texts.

import { element } from "./dom.js";
import { number, text } from "./texts.js";

/** Fill `place` with what the server found for an answer. */
export function showOrigins(place, found) {
  if (!found.spans.length) {
    place.replaceChildren(element("p", { class: "quiet small" }, text("noOrigin")));
    return;
  }
  place.replaceChildren(element("p", { class: "quiet small" }, text("originProof")), ...found.spans.map(passage));
}

function passage({ text: words, count, places }) {
  return element("div", { class: "source" },
    element("blockquote", { dir: "auto", lang: "" }, words.trim()),
    element("ul", { class: "small" }, places.map((each) => element("li", {}, ...document_(each)))),
    count > places.length && element("p", { class: "quiet small" }, `× ${number(count)}`));
}

function document_({ title, author, source, url, licence }) {
  const name = [title, author].filter(Boolean).join(", ") || source || text("notRecorded");
  // The address came with a document: only what a browser opens as a page becomes a link.
  const isPage = ["http:", "https:"].includes((url ?? "").split("/")[0].toLowerCase());
  return [isPage ? element("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, name) : name, " ",
    element("span", { class: "tag" }, licence || text("notRecorded"))];
}
