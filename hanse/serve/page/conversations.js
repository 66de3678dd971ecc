// Conversations in the browser: each a tree, since a question can be edited and an answer asked for again.
//
// A conversation is {id, title, made, changed, system, nodes}. A node is {id, parent, role, content, ...}; `chosen` of a
// node (or of the conversation, for its first questions) names the child that is shown. Each conversation is one entry of
// localStorage, so that two tabs do not overwrite each other's.

const PREFIX = "hanse.conversation.";
const FORMAT = "hanse-conversations";
const LONGEST_TITLE = 60;

/** The browser has no room, or allows no storage. What was said stays on the page until it is closed. */
export class Full extends Error {}

// `crypto.randomUUID` is missing where the page comes over plain HTTP from another machine.
export const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (each) => each.toString(36)).join("-");

export function newConversation(system = "") {
  const now = new Date().toISOString();
  return { id: newId(), title: "", made: now, changed: now, system, chosen: null, nodes: Object.create(null) };
}

// ---------------------------------------------------------------------------------------------------- the tree

/** Add a node under a parent (null: a first question) and show it. */
export function add(conversation, parent, role, content = "") {
  const node = { id: newId(), parent, role, content, chosen: null };
  conversation.nodes[node.id] = node;
  choose(conversation, node);
  if (!conversation.title && role === "user") {
    const line = content.trim().replace(/\s+/g, " ");
    conversation.title = line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line;
  }
  return node;
}

/** Show this node among those beside it. */
export function choose(conversation, node) {
  const holder = node.parent === null ? conversation : conversation.nodes[node.parent];
  holder.chosen = node.id;
}

/** The nodes that are shown, from the first question to the last answer. */
export function shown(conversation) {
  const path = [];
  let holder = conversation;
  let parent = null;
  for (;;) {
    const node = conversation.nodes[holder.chosen];
    if (!node || node.parent !== parent) return path;
    path.push(node);
    holder = node;
    parent = node.id;
  }
}

/** A node and those beside it, in the order in which they were made. */
export const siblings = (conversation, node) =>
  Object.values(conversation.nodes).filter((each) => each.parent === node.parent);

/** The nodes from the first question to this one. */
export function pathTo(conversation, node) {
  const path = [];
  for (let each = node; each; each = each.parent === null ? null : conversation.nodes[each.parent]) path.unshift(each);
  return path;
}

/** Remove a node without children and show the one made before it. */
export function remove(conversation, node) {
  delete conversation.nodes[node.id];
  const holder = node.parent === null ? conversation : conversation.nodes[node.parent];
  holder.chosen = siblings(conversation, node).at(-1)?.id ?? null;
}

// ---------------------------------------------------------------------------------------------------- storage

/** Every conversation, newest first. An entry that cannot be read is left alone and left out. */
export function all() {
  const found = [];
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      const name = localStorage.key(index);
      if (name.startsWith(PREFIX)) found.push(load(name.slice(PREFIX.length)));
    }
  } catch {
    return [];
  }
  return found.filter(Boolean).sort((one, other) => other.changed.localeCompare(one.changed));
}

export function load(id) {
  try {
    return checked(JSON.parse(localStorage.getItem(PREFIX + id)));
  } catch {
    return null;
  }
}

/** Keep a conversation. Throws Full. */
export function save(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
  } catch {
    throw new Full();
  }
}

export function forget(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // Nothing was kept.
  }
}

export const isOurs = (name) => name === null || name.startsWith(PREFIX);

// ---------------------------------------------------------------------------------------------------- files

export const exported = () => JSON.stringify({ format: FORMAT, version: 1, conversations: all() }, null, 1);

/** Keep the conversations of an exported file; one that is here already is taken if it changed later. Returns how many. */
export function importAll(content) {
  const file = JSON.parse(content);
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new SyntaxError("another format");
  const found = file.conversations.map(checked);
  if (found.includes(null)) throw new SyntaxError("a conversation is broken");
  const newer = found.filter((each) => !(load(each.id)?.changed >= each.changed));
  newer.forEach(save);
  return newer.length;
}

const isText = (value) => typeof value === "string";

/** A conversation with only what we know of, or null when it is none: it may come from a stranger's file. */
export function checked(value) {
  if (!value || ![value.id, value.title, value.made, value.changed].every(isText)) return null;
  if (!/^[\w-]{1,64}$/.test(value.id) || !value.nodes || typeof value.nodes !== "object") return null;
  const nodes = Object.create(null); // so that no name in it has a meaning of its own
  for (const [id, node] of Object.entries(value.nodes)) {
    if (!node || node.id !== id || !isText(node.content)) return null;
    if (!["user", "assistant"].includes(node.role) || !(node.parent === null || isText(node.parent))) return null;
    const { parent, role, content, reasoning, state, message, tokens, total, seconds, asked, from } = node;
    const chosen = isText(node.chosen) ? node.chosen : null;
    nodes[id] = { id, parent, role, content, chosen };
    for (const [name, each] of Object.entries({ reasoning, state, message, from })) {
      if (isText(each)) nodes[id][name] = each;
    }
    for (const [name, each] of Object.entries({ tokens, total, seconds })) {
      if (Number.isFinite(each)) nodes[id][name] = each;
    }
    if (asked && typeof asked === "object") nodes[id].asked = asked;
  }
  if (!Object.values(nodes).every((node) => isRooted(nodes, node))) return null;
  return {
    id: value.id, title: value.title, made: value.made, changed: value.changed,
    system: isText(value.system) ? value.system : "", chosen: isText(value.chosen) ? value.chosen : null, nodes,
  };
}

/** Whether a node leads up to a first question, through nodes that exist, without going in circles. */
function isRooted(nodes, node) {
  let steps = 0;
  for (let each = node; each.parent !== null; each = nodes[each.parent]) {
    if (!nodes[each.parent] || (steps += 1) > 10000) return false;
  }
  return true;
}
