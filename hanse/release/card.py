"""The model card: `README.md` with front matter for the Hugging Face Hub.

A pure function of facts that records back. What nothing backs says "not recorded"; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hanse.languages import LANGUAGES
from hanse.release.attribution import cell, flags
from hanse.release.ledger import Ledger
from hanse.release.papers.paper import NOT_RECORDED

#: Licence identifiers that the Hub knows, in its lower case; any other is written as "other" with its SPDX name.
HUB_LICENCES = (
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-sa-4.0", "cc-by-sa-3.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "eupl-1.1", "eupl-1.2", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0",
    "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "etalab-2.0", "odc-by", "odbl", "pddl", "osl-3.0",
)  # fmt: skip
_TITLES = {"exact_answer": "exact answers", "second_answer": "asked second", "bits_per_byte": "bits per byte"}


def card(ledger: Ledger) -> str:
    """The text of `README.md`."""
    title = ledger.title or ledger.name
    parts = [
        _front_matter(ledger),
        f"# {cell(title)}\n\n{cell(ledger.description) if ledger.description else _introduction(ledger)}",
        f"## At a glance\n\n{_glance(ledger)}",
        f"## How well\n\n{_scores(ledger)}",
        f"## Use it\n\n{_usage(ledger)}",
        f"## What it was trained on\n\n{_data(ledger)}",
        f"## What to watch for\n\n{_limits(ledger)}",
        f"## Verify it\n\n{_verify(ledger)}",
        f"## Where it comes from\n\n```\n{ledger.lineage}\n```\n\nEach line has its record in `provenance/`.",
    ]
    return "\n\n".join(parts) + "\n"


def total(training: Sequence[Mapping[str, Any]], fact: str) -> float | None:
    """The sum of a fact over all training steps, or None when a step did not record it."""
    values = [step.get(fact) for step in training]
    if not values or any(value is None for value in values):
        return None
    try:
        # FLOP beyond 2**53 stand as text in the records.
        return sum(int(value) if isinstance(value, str) else value for value in values if value is not None)
    except (TypeError, ValueError):
        return None


def _front_matter(ledger: Ledger) -> str:
    licence = ledger.licence.lower()
    lines = ["---"]
    if licence in HUB_LICENCES:
        lines.append(f"license: {licence}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(ledger.licence)}", "license_link: LICENSE"]
    # Quoted, because a bare `no` is false in YAML.
    lines += ["language:", *(f"- {json.dumps(code)}" for code in ledger.languages)]
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    tags = [
        str(ledger.config.get("model_type", NOT_RECORDED)),
        "hanse",
        *(["multilingual"] if len(ledger.languages) > 1 else []),
    ]
    tags += ["conversational"] if ledger.is_chat else []
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _introduction(ledger: Ledger) -> str:
    kind = "A language model to talk to" if ledger.is_chat else "A base language model"
    return f"{kind} in {len(ledger.languages)} languages, made with Hanse; each document behind it is on record."


def _glance(ledger: Ledger) -> str:
    config = ledger.config
    active = NOT_RECORDED if ledger.active_parameters is None else f"{ledger.active_parameters:,}"
    devices = sorted({str(step.get("runtime", {}).get("device_name", NOT_RECORDED)) for step in ledger.training})
    energy, seconds = total(ledger.training, "energy_wh"), total(ledger.training, "seconds")
    rows = [
        ("languages", ", ".join(_language(code) for code in ledger.languages)),
        ("licence of the weights", ledger.licence),
        ("architecture", _architecture(config)),
        ("parameters", f"{ledger.parameters:,}, of which {active} are at work on a token"),
        ("vocabulary", _number(config.get("vocab_size"), "tokens")),
        ("longest context", _number(config.get("max_position_embeddings"), "tokens")),
        ("training", _number(total(ledger.training, "tokens"), "tokens")),
        ("computation", _number(total(ledger.training, "flop"), "FLOP")),
        ("time", _number(None if seconds is None else round(seconds), "seconds")),
        ("energy", _number(energy, "Wh")),
        ("machine", ", ".join(devices) or NOT_RECORDED),
        ("contact", ledger.contact or NOT_RECORDED),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {cell(value)} |" for name, value in rows)])


def _architecture(config: Mapping[str, Any]) -> str:
    """The family, and what of it a reader of the card can use."""
    family, layers = config.get("model_type", NOT_RECORDED), config.get("num_hidden_layers", NOT_RECORDED)
    if family == "apertus":
        heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
        return f"apertus: {layers} layers, all dense; {heads} query heads share {keys} of keys and values"
    if family != "deepseek_v3":
        return f"{family}: {layers} layers"
    dense = min(config["first_k_dense_replace"], layers)
    if dense == layers:
        return f"deepseek_v3: {layers} layers, all dense; latent attention"
    return (
        f"deepseek_v3: {layers} layers, {layers - dense} of them with {config['n_routed_experts']} routed experts, "
        f"{config['num_experts_per_tok']} at work on each token, and {config['n_shared_experts']} shared; "
        "latent attention"
    )


def _scores(ledger: Ledger) -> str:
    if not ledger.scores:
        return f"Evaluation: {NOT_RECORDED}."
    columns: list[tuple[str, str]] = []
    for metric in dict.fromkeys(str(row["metric"]) for row in ledger.scores):
        tasks = list(dict.fromkeys(str(row["task"]) for row in ledger.scores if row["metric"] == metric))
        columns += [(metric, task) for task in (["all"] if "all" in tasks else tasks)]
    cells = {(row["language"], row["metric"], row["task"]): row for row in ledger.scores}
    codes = list(dict.fromkeys(str(row["language"]) for row in ledger.scores))
    heads = [_TITLES.get(metric, metric) + ("" if task == "all" else f", {task}") for metric, task in columns]
    lines = [f"| language | {' | '.join(map(cell, heads))} |", "|---|" + "---:|" * len(columns)]
    for code in sorted(codes, key=lambda code: (code in LANGUAGES, code)):
        values = [_value(cells.get((code, metric, task))) for metric, task in columns]
        lines.append(f"| {_language(code)} | {' | '.join(values)} |")
    return "\n".join(lines) + (
        "\n\nIn brackets: 95 % bootstrap interval, and the number of questions or documents. Exact answers: "
        "higher is better, on phrasings that training never saw. Asked second: the same questions, each after "
        "another one and the answer to that. Bits per byte: lower is better, on documents it never "
        "saw. Every figure is in `evaluation/scores.json`."
    )


def _value(row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("value") is None:
        return NOT_RECORDED
    scale, form, unit = (100, ".1f", " %") if row["metric"] in ("exact_answer", "second_answer") else (1, ".3f", "")
    text = f"{row['value'] * scale:{form}}{unit}"
    if row.get("low") is not None and row.get("high") is not None:
        text += f" ({row['low'] * scale:{form}} to {row['high'] * scale:{form}}; {row.get('n', NOT_RECORDED)})"
    return text


def _usage(ledger: Ledger) -> str:
    talk = (
        'messages = [{"role": "user", "content": "..."}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
        ")\n"
        if ledger.is_chat
        else 'inputs = tokenizer("...", return_tensors="pt")\n'
    )
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        f"{talk}"
        "output = model.generate(**inputs, max_new_tokens=64)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n'
        "```\n\n"
        "No code from this folder is run. With Hanse: `hanse chat --model FOLDER`."
    )


def _data(ledger: Ledger) -> str:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for credit in ledger.credits:
        count = groups.setdefault((credit.source, credit.licence, credit.kind), [0, 0])
        count[0] += credit.texts
        count[1] += credit.bytes
    if not groups:
        return f"Documents: {NOT_RECORDED}."
    lines = ["| source | licence | asks for | texts | bytes |", "|---|---|---|---:|---:|"]
    for (source, licence, kind), (texts, size) in sorted(groups.items()):
        asks = ", ".join(flags(licence)) or "-"
        lines.append(f"| {cell(source)} | {cell(licence)} | {asks} | {texts:,} {kind} | {size:,} |")
    return "\n".join(lines) + (
        "\n\nAuthors and rights holders: `ATTRIBUTION.md`. Every document, kept or dropped, and why: the table in "
        "`provenance/`."
    )


def _limits(ledger: Ledger) -> str:
    size = f"{ledger.parameters / 1e6:,.0f} million" if ledger.parameters >= 1e6 else f"{ledger.parameters:,}"
    return (
        f"A model of {size} parameters knows what its training text says and little else; beyond that it answers "
        "fluently and wrongly. No one has tested it for safety unless a record above says so. Figures hold for the "
        "languages and tasks listed."
    )


def _verify(ledger: Ledger) -> str:
    return (
        "```\npython verify.py --key SIGNERS_KEY.pem      # every file, every record, the signature\n"
        "sha256sum -c SHA256SUMS                     # the files, by coreutils alone\n"
        "model_signing verify key . --signature model.sig --public_key SIGNERS_KEY.pem\n```\n\n"
        "`verify.py` needs Python 3.11 and `cryptography`. Take the key from the signer, not from this folder; its "
        f"fingerprint (SHA-256 of the key in DER) is\n`{ledger.key_fingerprint}`."
    )


def _language(code: str) -> str:
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else code


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return NOT_RECORDED
    if value >= 1e12:
        return f"{value:.3g} {unit}"
    return f"{value:,} {unit}" if isinstance(value, int) else f"{value:,.2f} {unit}"
