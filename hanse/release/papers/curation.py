"""What was done with a dataset, as sentences: every number in them stands in a record or in the table of documents."""

from __future__ import annotations

from collections.abc import Mapping

from hanse.languages import LANGUAGES
from hanse.release.ledger import Ledger, SourceRecord
from hanse.release.papers.bill import uses
from hanse.release.papers.dataset_facts import DatasetFacts, counted, percent
from hanse.release.papers.paper import NOT_RECORDED
from hanse.store.digest import RECORD

_PERSONAL = {"mask": "masked", "pseudonym": "replaced by pseudonyms", "keep": "kept as it stands"}
#: Settings of curation -> what they do, in their order.
_STEPS = (
    ("policy", "A document needs a licence of the allow-list, or a basis that the policy of rights accepts "
     "(SHA-256 of the policy: {policy})."),
    ("licences", "Allow-list of licences: {licences}."),
    ("identify_language", "The language is identified; a document whose language is unknown, not asked for, or other "
     "than it declares (by a score of {min_language_score} or more) is left out."),
    ("min_characters", "Documents of fewer than {min_characters} characters are left out."),
    ("max_characters", "Documents of more than {max_characters} characters are left out."),
    ("quality", "Documents that fail rules of quality for their language are left out."),
    ("quality_model", "Documents below {min_quality} by a trained classifier are left out (SHA-256: {quality_model})."),
    ("near_duplicates", "Of documents that are the same or nearly (MinHash), one stays."),
)  # fmt: skip
#: Kinds of a source -> what they are, for `obtained`.
_OBTAINED = {
    "public-dataset": "a public dataset",
    "licensed": "licensed by contract",
    "crawl": "crawled from the web",
    "user": "given by users",
    "synthetic": "synthetic",
    "other": "obtained otherwise",
}


class _Told(dict[str, object]):
    """Settings for a sentence; what an older record does not have is not recorded."""

    def __missing__(self, key: str) -> str:
        return NOT_RECORDED


def summary(facts: DatasetFacts) -> str:
    """One paragraph: what it is, how much of it, in which languages."""
    size = "" if facts.kept.bytes is None else f", {facts.kept.bytes:,} bytes of text in UTF-8"
    tokens = f", {facts.kept.tokens:,} tokens by {facts.tokens_by}" if facts.kept.tokens is not None else ""
    codes = [part.name for part in facts.languages if part.name]
    languages = f" in {counted(len(codes), 'languages')} ({', '.join(codes)})" if codes else ""
    return f"{facts.artifact.ref}: {counted(facts.kept.texts, facts.texts_are)}{languages}{size}{tokens}."


def collected(source: SourceRecord) -> str:
    """How one source came in, as the recipe declares it; what it does not say is left out."""
    told = source.declared
    parts = [_OBTAINED.get(str(told.get("obtained")), "how it was obtained is not recorded")]
    for key, words in (
        ("crawler", "by the crawler {}"),
        ("model", "written by {}"),
        ("contract", "contract {}"),
        ("period", "period {}"),
        ("licence", "licence {}"),
        ("licence_basis", "basis of the licence: {}"),
        ("jurisdiction", "jurisdiction {}"),
        ("reservation", "reservation of rights: {}"),
    ):
        if told.get(key):
            parts.append(words.format(told[key]))
    if isinstance(told.get("files"), Mapping) and told["files"]:
        parts.append(f"{counted(len(told['files']), 'files')}, each with its SHA-256 in {RECORD}")
    return f"{source.name}: {'; '.join(parts)}."


def preprocessing(facts: DatasetFacts) -> list[str]:
    """The steps of curation that the recipe asked for, and what they left out together."""
    settings = facts.settings
    if not settings:
        return []
    told = _Told({key: f"{value:,}" if type(value) is int else value for key, value in settings.items()})
    told["licences"] = ", ".join(map(str, settings.get("licences") or ()))
    found = [text.format_map(told) for key, text in _STEPS if settings.get(key)]
    if settings.get("contamination"):
        fate = {"drop": "left out", "keep": "kept, and marked"}.get(
            str(settings.get("on_contamination")), "not recorded"
        )
        found.append(f"Documents that hold items of the evaluation are {fate}.")
    if settings.get("pii"):
        found.append(f"Personal data that is found by its form is {_PERSONAL.get(settings['pii'], settings['pii'])}.")
    if any(each.declared.get("kind") == "atlas" for each in facts.declared):
        found.append(
            "Text generated from the embedded atlas is neither filtered by length, language and quality nor searched "
            "for personal data."
        )
    if facts.seen is not None:
        gone = ", ".join(f"{reason} {count:,}" for reason, count in facts.dropped.items()) or "none"
        found.append(f"{facts.seen:,} documents seen, {facts.kept.texts:,} kept; left out, by reason: {gone}.")
    return found


def personal_data(facts: DatasetFacts) -> list[str]:
    """How personal data was treated, and how much was found in the texts that stayed."""
    treated = facts.settings.get("pii")
    if facts.searched is None or treated is None:
        return [f"Whether personal data was looked for in these {facts.texts_are} is not recorded."]
    if not facts.searched:
        return [f"None of these {facts.texts_are} was searched for personal data."]
    count = sum(facts.personal.values())
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in facts.personal.items())
    fate = f", {_PERSONAL.get(str(treated), str(treated))}: {kinds}" if kinds else ""
    return [
        f"{facts.searched:,} of {facts.kept.texts:,} {facts.texts_are} were searched for what points to a person by "
        f"its form; {counted(count, 'items')} found{fate}.",
        "Names, addresses, dates of birth and persons told by a description are not found by their form.",
    ]


def anonymised(facts: DatasetFacts) -> list[str]:
    """What was done to personal data; empty where nothing was, or nobody recorded it."""
    treated = facts.settings.get("pii") in ("mask", "pseudonym")
    return [personal_data(facts)[0]] if treated and facts.searched else []


def biases(facts: DatasetFacts) -> list[str]:
    """What a reader can expect the text to lean to: the shares of languages, of sources, and of synthetic text."""
    found = [
        f"{LANGUAGES[part.name].name if part.name in LANGUAGES else part.name or 'language not recorded'}: "
        f"{percent(facts.share(part))} of the bytes"
        for part in facts.languages
    ]
    found += [f"source {part.name}: {percent(facts.share(part))} of the bytes" for part in facts.sources if part.name]
    synthetic = {each.name for each in facts.declared if each.declared.get("obtained") == "synthetic"}
    parts = [part for part in facts.sources if part.name in synthetic]
    if parts and facts.kept.bytes:
        share = sum(part.bytes or 0 for part in parts) / facts.kept.bytes
        found.append(f"synthetic: {percent(share)} of the bytes")
    return found


def used_for(ledger: Ledger, facts: DatasetFacts) -> list[str]:
    """Which models were trained on it, and which were measured on the part held back."""
    trained, tested = uses(ledger, facts.artifact)
    found = [f"Training of {ref}." for ref in trained]
    return found + [f"Evaluation of {ref}, on the part held back from training." for ref in tested]


def citation(facts: DatasetFacts) -> str:
    """How to cite it, BibTeX; names of artifacts are plain, so nothing has to be escaped."""
    return (
        f"@misc{{{facts.stem},\n  title = {{{facts.artifact.kind} {facts.title}}},\n  year = {{{facts.made[:4]}}},\n"
        f"  note = {{SHA-256 of its SHA256SUMS: {facts.artifact.digest}}}\n}}"
    )
