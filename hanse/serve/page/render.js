// An answer as paragraphs, lists, tables and code, from the Markdown that models write.
//
// Everything a model says ends up in text nodes, so nothing in it can become an element, a script or a request. Links stay
// text: whoever wants to follow one sees where it leads first.

import { element, iconButton, toClipboard } from "./dom.js";
import { text } from "./texts.js";

// None of these can take more than linear time on a line, whatever a model writes.
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^(#{1,6})\s+(\S.*)$/;
const ITEM = /^(\s*)([-*+•]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const DIVIDER = /^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$/;
const DEEPEST_LIST = 6;

/** Show `markdown` in `container`. Blocks that did not change keep their elements, so a selection in them survives. */
export function renderInto(container, markdown) {
  const blocks = split(markdown);
  blocks.forEach((block, index) => {
    const source = `${block.kind}\n${block.lines.join("\n")}`;
    const there = container.children[index];
    if (there?.source === source) return;
    const made = drawn(block);
    made.source = source;
    if (there) there.replaceWith(made);
    else container.append(made);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

/** Cut Markdown into blocks `{kind, lines}`: code, heading, rule, quote, table, list or paragraph. */
export function split(markdown) {
  const lines = markdown.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  const takeWhile = (kind, belongs) => {
    const start = at;
    do at += 1;
    while (at < lines.length && belongs(lines[at]));
    blocks.push({ kind, lines: lines.slice(start, at) });
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (line.trim() === "") at += 1;
    else if (fence) at = takeCode(lines, at, fence, blocks);
    else if (HEADING.test(line)) takeWhile("heading", () => false);
    else if (RULE.test(line)) takeWhile("rule", () => false);
    else if (line.startsWith(">")) takeWhile("quote", (next) => next.startsWith(">"));
    else if (isTable(line, lines[at + 1])) takeWhile("table", (next) => next.includes("|"));
    else if (ITEM.test(line)) takeWhile("list", (next) => ITEM.test(next) || /^\s{2,}\S/.test(next));
    else takeWhile("paragraph", (next) => next.trim() !== "" && !startsBlock(next));
  }
  return blocks;
}

const startsBlock = (line) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || line.startsWith(">") || ITEM.test(line);

const isTable = (line, next = "") => line.includes("|") && next.includes("|") && DIVIDER.test(next.trim());

function takeCode(lines, at, fence, blocks) {
  const isEnd = (line) => line.startsWith(fence[1]) && line.slice(fence[1].length) === "";
  const end = lines.findIndex((line, index) => index > at && isEnd(line.trim()));
  const stop = end === -1 ? lines.length : end; // while it streams, the end is still to come
  blocks.push({ kind: "code", lines: lines.slice(at + 1, stop), name: fence[2].trim().split(/\s/)[0] });
  return stop + 1;
}

function drawn(block) {
  const { kind, lines } = block;
  if (kind === "code") return code(lines.join("\n"), block.name);
  if (kind === "heading") return heading(lines[0]);
  if (kind === "rule") return element("hr");
  if (kind === "quote") return element("blockquote", {}, withBreaks(lines.map((line) => line.replace(/^>\s?/, ""))));
  if (kind === "table") return table(lines);
  if (kind === "list") return list(lines);
  return element("p", {}, withBreaks(lines));
}

function heading(line) {
  const [, marks, words] = HEADING.exec(line);
  // The page's own headings end at level 3.
  return element(`h${Math.min(6, marks.length + 3)}`, {}, inline(words));
}

function code(content, name) {
  const copy = iconButton("copy", text("copy"), () => toClipboard(content));
  return element("figure", { class: "code" },
    element("figcaption", {}, element("span", {}, name || ""), copy),
    element("pre", { tabindex: "0" }, element("code", { translate: "no" }, content)));
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (tag, line) => element("tr", {}, cells(line).map((cell) => element(tag, {}, inline(cell))));
  return element("div", { class: "table", tabindex: "0", role: "group" }, element("table", {},
    element("thead", {}, row("th", lines[0])),
    element("tbody", {}, lines.slice(2).map((line) => row("td", line)))));
}

/** Lines of a list, with deeper ones as lists within. */
function list(lines, depth = 1) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const isOrdered = /\d/.test(mark);
  const made = element(isOrdered ? "ol" : "ul", isOrdered && Number.parseInt(mark, 10) !== 1 ? { start: Number.parseInt(mark, 10) } : {});
  let at = 0;
  while (at < lines.length) {
    const item = element("li", {}, inline((ITEM.exec(lines[at]) ?? [])[3] ?? lines[at].trim()));
    const start = (at += 1);
    while (at < lines.length && !(ITEM.test(lines[at]) && ITEM.exec(lines[at])[1].length <= indent.length)) at += 1;
    const inner = lines.slice(start, at);
    const nested = inner.findIndex((line) => ITEM.test(line));
    for (const line of nested === -1 ? inner : inner.slice(0, nested)) item.append(element("br"), ...inline(line.trim()));
    if (nested !== -1) {
      if (depth < DEEPEST_LIST) item.append(list(inner.slice(nested), depth + 1));
      else for (const line of inner.slice(nested)) item.append(element("br"), line.trim());
    }
    made.append(item);
  }
  return made;
}

const withBreaks = (lines) => lines.flatMap((line, index) => (index ? [element("br"), ...inline(line)] : inline(line)));

/** Code, bold and italic within a line, as nodes. Linear in the length of the line, however it is written. */
export function inline(line, depth = 0) {
  const nodes = [];
  let plain = "";
  let at = 0;
  const missing = new Set(); // marks that do not occur again: not sought twice
  const close = (mark, from) => {
    const found = missing.has(mark) ? -1 : line.indexOf(mark, from);
    if (found === -1) missing.add(mark);
    return found;
  };
  while (at < line.length) {
    const mark = /^(`+|\*\*|\*)/.exec(line.slice(at, at + 8))?.[1];
    const end = mark ? close(mark, at + mark.length) : -1;
    const inner = end === -1 ? "" : line.slice(at + mark.length, end);
    const isMarked = inner.trim() !== "" && (mark[0] === "`" || (inner.trim() === inner && depth < 3));
    if (!isMarked) {
      plain += mark ?? line[at];
      at += mark?.length ?? 1;
      continue;
    }
    if (plain) nodes.push(plain);
    plain = "";
    if (mark[0] === "`") nodes.push(element("code", { translate: "no" }, inner.trim()));
    else nodes.push(element(mark === "**" ? "strong" : "em", {}, inline(inner, depth + 1)));
    at = end + mark.length;
  }
  if (plain) nodes.push(plain);
  return nodes;
}
