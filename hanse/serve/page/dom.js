// Elements from names, attributes and texts. Text becomes text nodes, always: no string is ever read as HTML.

/** `element("button", {class: "round", onclick: run}, "Go")`. Functions become listeners; null and false are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** One of the drawings in index.html. */
export function icon(name) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  drawing.setAttribute("aria-hidden", "true");
  drawing.append(use);
  return drawing;
}

/** A button that shows only a drawing; the words are its name. */
export const iconButton = (name, words, onclick, attributes = {}) =>
  element("button", { type: "button", class: "icon-button", "aria-label": words, title: words, onclick, ...attributes }, icon(name));

/** Put text on the clipboard; true when it is there. */
export async function toClipboard(content) {
  try {
    await navigator.clipboard.writeText(content);
    return true;
  } catch {
    // No permission, or plain HTTP from another machine, where browsers hide the clipboard: the old way still works.
    const area = element("textarea", { class: "hidden", readonly: true, "aria-hidden": "true" });
    area.value = content;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
