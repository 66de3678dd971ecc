// The server: which model it has, what that is made of, and answers as they come.

const KEY = "hanse.key";

/** A failure that a person can act on. `kind` is one of key, gone, busy, incomplete, long, refused. */
export class Failure extends Error {
  constructor(kind, message = "", seconds = null) {
    super(message || kind);
    this.kind = kind;
    this.seconds = seconds;
  }
}

/** The key lives as long as the tab; it is never written to the disk. */
export const key = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return this.kept ?? "";
    }
  },
  set(value) {
    this.kept = value;
    try {
      sessionStorage.setItem(KEY, value);
    } catch {
      // Kept in memory above.
    }
  },
};

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("gone");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // A proxy answered in its own way; the status has to do.
  }
  if (!error.message && [502, 504].includes(answer.status)) return new Failure("gone");
  const message = typeof error.message === "string" ? error.message : `HTTP ${answer.status}`;
  if (answer.status === 401) return new Failure("key", message);
  if (answer.status === 429 || answer.status === 503) {
    const seconds = Number.parseInt(answer.headers.get("retry-after") ?? "", 10);
    return Number.isNaN(seconds) ? new Failure("refused", message) : new Failure("busy", message, seconds);
  }
  return new Failure(error.code === "context_length_exceeded" ? "long" : "refused", message);
}

/** The models as `{id, context}`, the first of them being the one that is talked to; its context is in tokens, if told. */
export async function models() {
  const found = await (await ask("v1/models")).json();
  return (found.data ?? []).map(({ id, max_model_len: context }) => ({ id, context }));
}

/** What the model is made of; see docs/page.md. */
export const record = async () => (await ask("record")).json();

/** Where the passages of a text stand in the training texts; only for servers whose record says that they have an index. */
export const trace = async (text) =>
  (await ask("trace", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ text }) })).json();

/**
 * Ask and read the answer as it comes.
 *
 * `on.content` and `on.reasoning` get each new piece. Returns `{finish, usage}`.
 * Throws a Failure, or an AbortError when `signal` fires.
 */
export async function chat(body, on, signal) {
  const answer = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const outcome = { finish: null, usage: null };
  let isWhole = false;
  try {
    for await (const data of events(answer.body)) {
      if (data === "[DONE]") {
        isWhole = true;
        break;
      }
      take(JSON.parse(data), on, outcome);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Failure) throw error;
    throw new Failure("incomplete"); // the connection broke, or a line of the stream was cut
  }
  if (!isWhole || outcome.finish === null) throw new Failure("incomplete");
  return outcome;
}

function take(chunk, on, outcome) {
  if (chunk.error) throw new Failure("refused", String(chunk.error.message ?? ""));
  if (chunk.usage) outcome.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (reasoning) on.reasoning(reasoning);
  if (content) on.content(content);
  for (const call of calls ?? []) on.content(`\n\`${call.function?.name ?? ""}(${call.function?.arguments ?? ""})\`\n`);
  if (choice.finish_reason) outcome.finish = choice.finish_reason;
}

/** The data of each server-sent event (HTML standard, section 9.2): lines end in LF, CR LF or CR. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value = "", done } = await reader.read();
      rest += value;
      // A CR at the end may be half of a CR LF: wait for what follows.
      const lines = rest.split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
      if (done) return; // an event without its empty line is not whole
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
