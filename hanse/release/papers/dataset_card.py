"""The dataset card: `README.md` of a dataset, with front matter for the Hugging Face Hub.

A pure function of records. Text from outside is escaped; in the front matter it stands only as JSON strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from hanse.languages import LANGUAGES
from hanse.release.attribution import cell
from hanse.release.card import HUB_LICENCES
from hanse.release.ledger import Ledger, SourceRecord
from hanse.release.papers import curation
from hanse.release.papers.bill import unknowns
from hanse.release.papers.dataset_facts import DatasetFacts, Part, duties, licence_addresses, percent, web_address
from hanse.release.papers.paper import NO_ADVICE, NOT_RECORDED

#: Upper ends of the Hub's size categories, in texts.
_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
#: Split -> the Hub's name for it, and its files.
_SPLITS = {
    "documents": {
        "train": ("train", "text/train-*.parquet"),
        "validation": ("validation", "text/validation-*.parquet"),
    },
    "conversations": {"train": ("train", "train.jsonl"), "heldout": ("test", "heldout.jsonl")},
}


def dataset_card(ledger: Ledger, facts: DatasetFacts) -> str:
    """The text of the card of one dataset, or of conversations."""
    sections = [
        _front_matter(facts),
        f"# {facts.artifact.ref}\n\n{cell(curation.summary(facts))} {NO_ADVICE}",
        f"## Licences\n\n{_licences(facts)}",
        f"## Languages\n\n{_table('language', facts.languages, facts, _language)}",
        f"## Sources\n\n{_sources(facts)}",
        f"## Curation\n\n{_curation(facts)}",
        f"## Personal data\n\n{_paragraphs(curation.personal_data(facts))}",
        f"## Duplicates\n\n{_duplicates(facts)}",
        f"## Splits\n\n{_table('split', facts.splits, facts)}",
        f"## What it was used for\n\n{_paragraphs(curation.used_for(ledger, facts))}",
        f"## What is not known\n\n{_paragraphs([*unknowns(facts), *_withdrawn(ledger)]) or 'Nothing on record.'}",
        f"## Cite it\n\n```bibtex\n{curation.citation(facts)}\n```",
        f"## Verify it\n\n{_verify(facts)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: DatasetFacts) -> str:
    lines = ["---"]
    names = list(dict.fromkeys(part.name or "NOASSERTION" for part in facts.licences))
    known = [name.lower() for name in names if name.lower() in HUB_LICENCES]
    if names and len(known) == len(names):
        lines += ["license:", *(f"- {name}" for name in known)]
    else:
        lines += ["license: other", f"license_name: {_quoted(', '.join(names) or NOT_RECORDED)}"]
    # Quoted, because a bare `no` is false in YAML.
    codes = [part.name for part in facts.languages if part.name]
    lines += ["language:", *(f"- {_quoted(code)}" for code in codes)] if codes else []
    lines += [f"pretty_name: {_quoted(f'{facts.artifact.kind} {facts.title}')}"]
    lines += ["size_categories:", f"- {_quoted(_size(facts.kept.texts))}", "task_categories:", "- text-generation"]
    lines += ["tags:", "- hanse", *(["- conversational"] if facts.texts_are == "conversations" else [])]
    lines += _configs(facts)
    return "\n".join([*lines, "---"])


def _configs(facts: DatasetFacts) -> list[str]:
    """Which files are which split, where the files are there."""
    there = [file.path for file in facts.files]
    lines = []
    for split, (name, pattern) in _SPLITS[facts.texts_are].items():
        begin = pattern.partition("*")[0]
        if any(path.startswith(begin) for path in there) and any(part.name == split for part in facts.splits):
            lines += [f"  - split: {name}", f"    path: {_quoted(pattern)}"]
    return ["configs:", "- config_name: default", "  data_files:", *lines] if lines else []


def _size(texts: int) -> str:
    return next((name for end, name in _SIZES if texts < end), "n>1T")


def _quoted(text: str) -> str:
    """A string of YAML's double-quoted style, which JSON is a subset of."""
    return json.dumps(text, ensure_ascii=True)


def _licences(facts: DatasetFacts) -> str:
    if not facts.licences:
        return f"Licences: {NOT_RECORDED}."
    rows = []
    for part in facts.licences:
        name, addresses = part.name or "NOASSERTION", licence_addresses(part.name)
        shown = f"[{cell(name)}]({addresses[0]})" if len(addresses) == 1 else cell(name)
        rows.append([shown, duties(name) or "-", *_counts(part, facts)])
    return _lines(["licence", "asks for", *_heads(facts)], rows, right=len(_heads(facts)))


def _language(code: str) -> str:
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else cell(code)


def _table(head: str, parts: Sequence[Part], facts: DatasetFacts, shown: Callable[[str], str] = cell) -> str:
    if not parts:
        return f"By {head}: {NOT_RECORDED}."
    rows = [[shown(part.name) if part.name else NOT_RECORDED, *_counts(part, facts)] for part in parts]
    return _lines([head, *_heads(facts)], rows, right=len(_heads(facts)))


def _heads(facts: DatasetFacts) -> list[str]:
    return [facts.texts_are, "bytes", "share of bytes", "tokens"]


def _counts(part: Part, facts: DatasetFacts) -> list[str]:
    numbers = [NOT_RECORDED if number is None else f"{number:,}" for number in (part.bytes, part.tokens)]
    return [f"{part.texts:,}", numbers[0], percent(facts.share(part)), numbers[1]]


def _sources(facts: DatasetFacts) -> str:
    if not facts.declared:
        return f"Sources: {NOT_RECORDED}."
    rows = [_source(each) for each in facts.declared]
    heads = ["source", "obtained", "licence", "basis", "rights holder", "reservation", "period", "link"]
    parts = [_lines(heads, rows), _table("source", facts.sources, facts)]
    if {part.name for part in facts.collections} != {part.name for part in facts.sources}:
        parts.append(_table("collection", facts.collections, facts))
    return "\n\n".join(parts)


def _source(source: SourceRecord) -> list[str]:
    keys = ("obtained", "licence", "licence_basis", "rights_holder", "reservation", "period")
    address = web_address(source.declared.get("url"))
    link = f"<{address}>" if address else NOT_RECORDED
    return [cell(source.name), *(cell(str(source.declared.get(key) or "")) for key in keys), link]


def _curation(facts: DatasetFacts) -> str:
    steps = "\n".join(f"{number}. {cell(line)}" for number, line in enumerate(curation.preprocessing(facts), 1))
    if not steps:
        return f"Steps of curation: {NOT_RECORDED}."
    if not facts.dropped:
        return steps
    rows = [[cell(reason), f"{count:,}"] for reason, count in facts.dropped.items()]
    return f"{steps}\n\n{_lines(['left out because of', 'documents'], rows, right=1)}"


def _duplicates(facts: DatasetFacts) -> str:
    if facts.texts_are == "conversations" or facts.seen is None:
        return f"Duplicates: {NOT_RECORDED}."
    exact, near = (facts.dropped.get(reason, 0) for reason in ("duplicate", "near-duplicate"))
    return f"Left out as copies of a document that stayed: {exact:,} exact, {near:,} near."


def _withdrawn(ledger: Ledger) -> list[str]:
    count = len(ledger.withdrawals)
    return [f"Withdrawals known when this was written: {count:,}."] if count else []


def _verify(facts: DatasetFacts) -> str:
    return (
        "```\nsha256sum -c SHA256SUMS   # every file\nsha256sum SHA256SUMS      # has to give the digest\n```\n\n"
        f"Digest: `{facts.artifact.digest}`. Made {facts.made[:10]}; the record of the step is `step.json`."
    )


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n".join(f"* {cell(line)}" for line in lines)


def _lines(heads: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """A Markdown table; the last `right` columns are numbers."""
    rule = ["---"] * (len(heads) - right) + ["---:"] * right
    return "\n".join(["| " + " | ".join(row) + " |" for row in (heads, rule, *rows)])
