// From a conversation to a request, and again with less of it where the model cannot see it all.

import { chat } from "./api.js";
import { pathTo } from "./conversations.js";
import { isSingle, settings } from "./settings.js";
import { answerIn } from "./texts.js";

/** Of the model's context, how much the conversation may fill before its beginning is left out; the rest is the answer's. */
const FULL = 0.75;

/**
 * Ask for the answer to a question, into `node`. What was left out of the conversation is noted in `node.from`, the id of
 * the first question that the model saw; later answers begin there too.
 *
 * `model` is {id, context}; `on` and `signal` are as for `chat`, and so is what comes back.
 */
export async function request(model, conversation, node, question, on, signal) {
  const path = pathTo(conversation, question);
  const before = path.findLast((each) => each.role === "assistant" && each.content);
  let turns = path;
  const isAlone = isSingle(model);
  if (isAlone) turns = [question];
  else if (before?.from) turns = path.slice(path.findIndex((each) => each.id === before.from));
  if (turns.length > 1 && model.context && before?.total > model.context * FULL) turns = laterHalf(turns) ?? turns;
  for (;;) {
    if (turns.length < path.length && !isAlone) node.from = turns[0].id;
    try {
      return await chat({ model: model.id, messages: messages(conversation, turns), ...node.asked }, on, signal);
    } catch (error) {
      const fewer = error.kind === "long" && laterHalf(turns);
      if (!fewer) throw error;
      turns = fewer;
    }
  }
}

/** The later half of the questions with their answers; null where there is only one. */
function laterHalf(turns) {
  const questions = turns.filter((each) => each.role === "user");
  return questions.length < 2 ? null : turns.slice(turns.indexOf(questions[Math.ceil(questions.length / 2)]));
}

function messages(conversation, turns) {
  const system = [conversation.system.trim(), answerIn(settings.answerLanguage)].filter(Boolean).join("\n");
  const said = turns.filter((each) => each.content).map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...said] : said;
}

/** Where the last whole sentence or line of a text ends; 0 where none is whole yet. */
export function endOfSentences(content) {
  return content.search(/[.!?;…\n](?=\s)[^.!?;…\n]*$/) + 1;
}
