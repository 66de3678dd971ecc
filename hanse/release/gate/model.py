"""The part of the gate that needs a model library, a process: `python -m hanse.release.gate.model FOLDER QUESTIONS`.

Takes questions as a JSON list, and writes what it found as one line of JSON to stdout. It opens no
connection: any attempt of a library to do so is an error.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: Largest difference of two logits in float32, as part of the largest logit. Measured: 1e-6; other weights give 0.1.
TOLERANCE = 1e-3
PROMPT = "Liberté, ελευθερία, свобода, Freiheit: 1 2 3."
PROMPT_TOKENS = 48
ANSWER_TOKENS = 64
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather < now",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
ASKED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Kif inhu t-temp f'Ħal Qormi? <think>"},
]
ARGUMENTS = {"place": 'Ħal Qormi "<|/tool_call|>"'}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "Let me see.",
    "reasoning_content": "I must ask.",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}],
}
#: Text that belongs to the frame of an answer and never into it.
TAGS = ("<think", "</think", "<thinking", "</thinking", "<|", "|>", "<reasoning", "</reasoning")

Problem = dict[str, str]


def main() -> int:
    """Look at the folder named on the command line."""
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, _refuse)
    folder, questions = Path(sys.argv[1]), json.loads(sys.argv[2])
    found = {
        "loads": _tried(lambda: same_logits(folder)),
        "template": _tried(lambda: round_trip(folder)),
        "answers": _tried(lambda: clean_answers(folder, questions)),
    }
    print(json.dumps(found))
    return 0


def same_logits(folder: Path) -> tuple[list[Problem], str]:
    """Whether transformers, offline and without code of the folder, computes what our loader computes."""
    import torch
    from tokenizers import Tokenizer

    from hanse.model import hf

    try:
        import transformers
    except ImportError:
        return [{"what": "transformers is not installed, so nobody looked; run: pip install 'hanse[transformers]'"}], ""
    quiet: Any = transformers.logging
    quiet.set_verbosity_error()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROMPT, add_special_tokens=False).ids
    theirs_ids = transformers.AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    ).encode(PROMPT, add_special_tokens=False)
    if ids != theirs_ids:
        return [{"what": "transformers cuts a text into other tokens", "where": "tokenizer.json"}], ""
    ours = hf.load(folder).eval()
    tokens = torch.tensor([ids[: min(PROMPT_TOKENS, ours.config.max_position_embeddings)]])
    reference: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True, use_safetensors=True
    )
    reference.eval()
    with torch.inference_mode():
        own, other = ours.logits(ours(tokens)), reference(tokens).logits
    if not (own.isfinite().all() and other.isfinite().all()):
        return [{"what": "logits are infinite or no numbers", "where": "model.safetensors"}], ""
    scale = float(other.abs().max().clamp(min=1.0))
    difference = float((own - other).abs().max()) / scale
    if difference > TOLERANCE:
        told = f"transformers computes other logits: they differ by {difference:.1e} of the largest"
        return [{"what": told, "where": "model.safetensors"}], ""
    version = transformers.__version__
    return [], f"transformers {version} loads it offline, without its code, and computes the same ({difference:.0e})"


def round_trip(folder: Path) -> tuple[list[Problem], str]:
    """Whether a conversation with a tool call is rendered alike everywhere, and is read back as what it was."""
    import transformers
    from tokenizers import Tokenizer

    from hanse.serve.answer import AnswerParser
    from hanse.tune.template import CHAT_TEMPLATE, render

    place, problems = "chat_template.jinja", []
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if (folder / place).read_text(encoding="utf-8") != CHAT_TEMPLATE:
        problems.append({"what": "is not the template that training used", "where": place})
    before = render(tokenizer, ASKED, tools=TOOLS, add_generation_prompt=True).ids
    whole = render(tokenizer, [*ASKED, CALL], tools=TOOLS).ids
    plain: list[dict[str, Any]] = [
        {"role": "user", "content": "Kemm?"},
        {**CALL, "tool_calls": _calls({"place": "Ħal Qormi"})},
    ]
    other: Any = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    theirs = other.apply_chat_template(plain, tools=TOOLS, tokenize=True, return_dict=False)
    if list(theirs) != render(tokenizer, plain, tools=TOOLS).ids:
        problems.append({"what": "transformers renders a conversation with other tokens", "where": place})
    if whole[: len(before)] != before:
        problems.append({"what": "a conversation does not begin with its own prompt", "where": place})
        return problems, ""
    parser = AnswerParser(tokenizer)
    deltas = [*parser.add(whole[len(before) :][:-1]), *parser.finish()]
    spoken = {kind: "".join(each.text for each in deltas if each.kind == kind) for kind in ("content", "reasoning")}
    calls = [(each.call.name, json.loads(each.call.arguments)) for each in deltas if each.call is not None]
    if calls != [("weather", ARGUMENTS)]:
        problems.append({"what": f"a tool call comes back as {calls!r}", "where": place})
    if spoken != {"content": CALL["content"], "reasoning": CALL["reasoning_content"]}:
        problems.append({"what": f"an answer comes back as {spoken!r}", "where": place})
    return (
        problems,
        "a conversation with reasoning and a tool call is rendered as in transformers, and read back the same",
    )


def clean_answers(folder: Path, questions: Sequence[str]) -> tuple[list[Problem], str]:
    """Whether greedy answers are free of the marks that frame reasoning and tool calls."""
    from hanse.runtime import Runtime
    from hanse.serve.engine import load_engine
    from hanse.serve.request import Request, Sampling
    from hanse.tune.template import render

    if not questions:
        return [], "not tuned on conversations, so no answers to look at"
    runtime = Runtime.detect("cpu")
    runtime.apply()
    engine = load_engine(folder, runtime)
    problems: list[Problem] = []
    answered = 0
    for question in questions:
        prompt = render(engine.tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True).ids
        room = engine.context - len(prompt)
        if room < 1:
            continue
        answered += 1
        pieces = list(engine.outputs(Request(tuple(prompt), Sampling(max_tokens=min(ANSWER_TOKENS, room)))))
        tokens = [token for piece in pieces for token in piece.tokens]
        problem = stray(engine.tokenizer, tokens, is_ended=pieces[-1].finish == "stop")
        if problem:
            problems.append({"what": f"the answer to '{question}' {problem}"})
    if not answered:
        problems.append({"what": f"no question leaves room for an answer in a context of {engine.context} tokens"})
    return problems, f"{answered} greedy answers carry no stray tags"


def stray(tokenizer: Any, tokens: Sequence[int], *, is_ended: bool) -> str:
    """What is wrong with the marks of an answer; empty where nothing is.

    Args:
        tokens: of the answer, without its end token.
        is_ended: whether it ended by itself; what was cut off may be open.
    """
    from hanse.serve.answer import AnswerParser

    marks = {tokenizer.token_to_id(mark): mark for mark in ("<think>", "</think>", "<|tool_call|>", "<|/tool_call|>")}
    open_mark = ""
    for mark in (marks[token] for token in tokens if token in marks):
        closes = mark.replace("/", "") if "/" in mark else ""
        if (closes and closes != open_mark) or (not closes and open_mark):
            return f"holds a stray {mark}"
        open_mark = "" if closes else mark
    if open_mark and is_ended:
        return f"opens {open_mark} and never closes it"
    parser = AnswerParser(tokenizer)
    spoken = "".join(each.text for each in [*parser.add(tokens), *parser.finish()] if each.kind == "content")
    found = next((tag for tag in TAGS if tag in spoken.lower()), "")
    return f"spells the tag '{found}' as text" if found else ""


def _calls(arguments: dict[str, str]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "weather", "arguments": arguments}}]


def _tried(look: Callable[[], tuple[list[Problem], str]]) -> dict[str, Any]:
    """A look that fails is a problem, in one line."""
    try:
        problems, passed = look()
    except Exception as error:  # libraries raise whatever they like about a broken folder
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        problems, passed = [{"what": f"cannot be done: {lines[0] if lines else type(error).__name__}"}], ""
    return {"problems": problems, "passed": passed}


def _refuse(*arguments: object) -> None:
    raise OSError("a library tried to open a connection; the gate looks at the folder alone")


if __name__ == "__main__":
    sys.exit(main())
