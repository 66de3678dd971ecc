// The columns beside the conversation: there where there is room, laid over it where there is none.

import { keepSettings, settings } from "./settings.js";

const SIDES = ["conversations", "panel"];
const room = { conversations: matchMedia("(min-width: 900px)"), panel: matchMedia("(min-width: 1180px)") };
const at = (id) => document.getElementById(id);

/** Whether a side has its own column. */
export const hasRoom = (side) => room[side].matches;

/** The side that lies over the conversation now, or undefined. */
export const over = () => SIDES.find((side) => !at(side).hidden && !hasRoom(side));

/** Show a side, or hide it. */
export function toggle(side, isOpen = at(side).hidden) {
  const lying = over();
  if (isOpen && lying && lying !== side) at(lying).hidden = true;
  at(side).hidden = !isOpen;
  if (hasRoom(side)) keepSettings({ [side]: isOpen });
  arrange();
  if (isOpen && !hasRoom(side)) at(side).querySelector("button").focus();
}

/** Hide a side and go back to the button that shows it. */
export function close(side) {
  toggle(side, false);
  at(`toggle-${side}`).focus();
}

/** Beside the conversation as they were left, where there is room; out of the way where there is none. */
function settle() {
  for (const side of SIDES) at(side).hidden = !hasRoom(side) || settings[side] === false;
  arrange();
}

/** What lies under a side cannot be reached by pointer, key or screen reader. */
function arrange() {
  const lying = over();
  at("veil").hidden = !lying;
  at("main").inert = Boolean(lying);
  for (const side of SIDES) {
    at(side).inert = Boolean(lying) && lying !== side;
    at(`toggle-${side}`).setAttribute("aria-expanded", String(!at(side).hidden));
  }
}

export function listenToSides() {
  for (const side of SIDES) {
    at(`toggle-${side}`).addEventListener("click", () => toggle(side));
    room[side].addEventListener("change", settle);
  }
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => close(button.dataset.close));
  }
  at("veil").addEventListener("click", () => over() && close(over()));
  settle();
}
