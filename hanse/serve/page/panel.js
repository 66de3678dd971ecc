// "What is this made of?": the record of the model, as the server read it from the release.

import { element, icon } from "./dom.js";
import { renderInto } from "./render.js";
import { bytes, compact, day, languageName, number, percent, text } from "./texts.js";

/** Fill `container` with a record (see docs/page.md). Whatever is null in it is "not recorded". */
export function showRecord(container, record) {
  container.replaceChildren(
    introduction(record.release),
    signature(record.signature),
    figures(record),
    languages(record.languages),
    sources(record.sources),
    origin(record.trace),
    papers(record.papers, record.ancestors),
  );
}

/** Fill `container` with one sentence. */
export const showNoRecord = (container, words) => container.replaceChildren(element("p", { class: "quiet" }, words));

const section = (name, ...children) =>
  element("section", {}, element("h3", { class: "quiet-heading" }, text(name)), ...children);
const missing = () => element("span", { class: "missing" }, text("notRecorded"));
const orMissing = (value, shown) => (value === null || value === undefined ? missing() : shown(value));

function introduction(release) {
  const facts = [release.name, release.made && day(release.made), release.licence].filter(Boolean).join(" · ");
  return element("section", {},
    element("p", { class: "model-name" }, release.title ?? release.name ?? missing()),
    release.description && element("p", {}, release.description),
    facts && element("p", { class: "quiet small" }, facts),
    release.contact && element("p", { class: "quiet small" }, release.contact));
}

function signature({ state, fingerprint, problems }) {
  const words = { holds: "holds", unsigned: "unsigned", broken: "broken" }[state];
  return element("section", { class: `signature ${state ?? "unknown"}` },
    icon(state === "holds" ? "shield" : "warning"),
    element("div", {},
      element("h3", { class: "hidden" }, text("signature")),
      element("p", {}, words ? text(words) : element("span", {}, `${text("signature")}: `, missing())),
      fingerprint && element("p", { class: "fingerprint", translate: "no" }, `SHA-256 ${fingerprint.match(/.{1,8}/g).join(" ")}`),
      problems.length > 0 && element("ul", { class: "problems" }, problems.slice(0, 8).map((each) => element("li", {}, each)))));
}

function figures({ model, training, evaluation }) {
  const right = evaluation.find((each) => each.metric === "exact_answer");
  const rows = [
    ["parameters", orMissing(model.parameters, parameters(model))],
    ["context", orMissing(model.context, number)],
    ["trained", orMissing(training.tokens, compact)],
    ["size", orMissing(model.bytes, bytes)],
  ];
  if (right) rows.push(["right", element("span", {}, percent(right.value), element("small", {}, ` (${percent(right.low)} – ${percent(right.high)})`))]);
  return section("model", element("dl", { class: "figures" },
    rows.map(([name, value]) => element("div", {}, element("dt", {}, text(name)), element("dd", {}, value)))));
}

const parameters = ({ active_parameters: active }) => (value) =>
  active !== null && active < value ? `${compact(value)} (${compact(active)})` : compact(value);

function languages(found) {
  const widest = Math.max(...found.map((each) => each.share ?? 0));
  const rows = found.map((each) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
    // Set through the object model: the policy of the page forbids style attributes.
    if (widest > 0) bar.firstChild.style.width = `${((each.share ?? 0) / widest) * 100}%`;
    const counted = each.documents === null ? null : `${text("documents")}: ${number(each.documents)}, ${bytes(each.bytes)}`;
    return element("li", { title: [each.code && languageName(each.code), counted].filter(Boolean).join("\n") },
      element("span", { lang: each.code }, orMissing(each.autonym, String)), bar,
      element("span", { class: "share" }, orMissing(each.share, percent)));
  });
  return section("languages", rows.length ? element("ol", { class: "languages" }, rows) : element("p", {}, missing()));
}

function sources(found) {
  if (!found.length) return section("sources", element("p", {}, missing()));
  return section("sources", found.map((each) => element("div", { class: "source" },
    element("p", {}, element("strong", {}, each.name), " ", element("span", { class: "tag" }, each.licence || text("notRecorded")),
      each.asks.map((asked) => element("span", { class: "tag asks" }, asked))),
    each.rights_holders.length > 0 && element("p", { class: "quiet small" }, each.rights_holders.join("; ")),
    element("p", { class: "small" }, counts(each)),
    each.generated_from.length > 0 && element("ul", { class: "small parts" },
      each.generated_from.map((part) => element("li", {}, part.name, part.version ? ` ${shortened(part.version)}` : "", " ", element("span", { class: "tag" }, part.licence)))))));
}

function counts({ documents, conversations, bytes: size }) {
  const parts = [];
  if (documents) parts.push(`${text("documents")}: ${number(documents)}`);
  if (conversations) parts.push(`${text("conversations")}: ${number(conversations)}`);
  return [...parts, bytes(size)].join(" · ");
}

/** A version that is a digest is too long for a line. */
const shortened = (version) => version.replace(/(sha256:[0-9a-f]{12})[0-9a-f]+/, "$1…");

function origin(trace) {
  // An index of the training texts is what would answer this; without one, that is all there is to say.
  return trace.index ? "" : section("origin", element("p", { class: "small" }, text("noIndex")));
}

function papers(found, ancestors) {
  if (!found.length) return section("papers", element("p", {}, missing()));
  const readable = found.filter((each) => each.text !== null);
  const others = found.filter((each) => each.text === null);
  return section("papers",
    readable.map((each) => paper(each)),
    others.length > 0 && element("details", {},
      element("summary", {}, `SHA256SUMS (${number(others.length)})`),
      element("ul", { class: "files small", translate: "no" }, others.map((each) => element("li", {}, each.name, " ", element("span", { class: "quiet" }, each.bytes === null ? "" : bytes(each.bytes)))))),
    ancestors.length > 0 && element("details", {},
      element("summary", {}, `provenance/ (${number(ancestors.length)})`),
      element("ul", { class: "files small", translate: "no" }, ancestors.map((each) => element("li", {}, each.name, " ", element("span", { class: "quiet" }, each.sha256.slice(0, 12)))))));
}

function paper({ name, bytes: size, text: content }) {
  const shown = element("div", { class: "paper", dir: "auto" });
  const made = element("details", {}, element("summary", {}, name, " ", element("span", { class: "quiet" }, bytes(size))), shown);
  made.addEventListener("toggle", () => {
    if (!made.open || shown.firstChild) return;
    if (name.endsWith(".md")) renderInto(shown, content.replace(/^---\n[\s\S]*?\n---\n/, "").replace(/\\([\\`|[\]<>*_])/g, "$1"));
    else shown.append(element("pre", {}, content));
  });
  return made;
}
