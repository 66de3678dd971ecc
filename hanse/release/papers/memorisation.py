"""The memorisation dossier: how much of its training text a model gives back, as the measuring stage recorded it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanse.errors import InputError
from hanse.release.ledger import Ledger
from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table, not_applicable
from hanse.store import record as records
from hanse.store.stage import Artifact

REPORT = "memorisation.json"
_KINDS = {"source": "source", "rights_holder": "rights holder"}
Place = tuple[str | int, ...]
_COMPARED = ("extracted", "control", "difference", "longest shared run", "in the control")

_HOW = (
    "Training reads text in windows of so many tokens, and a run may end before it has come to all of them. What was "
    "read follows from the record of the run and the order of the data. Each beginning and its continuation were taken "
    "from within one window that was read, so the model saw both together. Where no record says what was read, they "
    "were taken from anywhere in the training documents, which flatters a model that read only a part of them.",
    "Documents of the training split were drawn by a keyed hash of their identifiers among those that can be tested, "
    "and in each of them one place. The model was given the tokens before that place, taken from the document, and "
    "wrote on. Tokens that end a text were barred, since a tuned model would stop and seem to know nothing. A document "
    "counts as extracted if the next tokens came out exactly as they stand in it: in one greedy continuation, or in at "
    "least one of several drawn at random.",
    "What came out is looked for in all of the text that curation kept, by the index of `hanse trace`. A passage "
    "that stands there more than once may have been learnt from any of its places, and if it is of the control, from "
    "training.",
    "The control is the same test on documents of the same source that were held out from training, cut into windows "
    "in the same way. What a model can say there it cannot have learnt by heart, so the difference between the two is "
    "the evidence, not the first figure alone.",
    "Bounds are exact (Clopper and Pearson 1934, 95 %). Where nothing was found the upper bound alone is given, which "
    "is close to 3 divided by the number tested. Bounds of a difference follow Newcombe (1998), over the exact bounds. "
    "What is counted is documents, each at one place: the bounds are about the share that would be found if every "
    "document of the population were tested at one random place. Each holds for itself: of many bounds at 95 %, one in "
    "twenty may miss.",
)
_LIMITS = (
    "This is a lower bound. A text counts only if it comes out word for word behind its own beginning. Other prompts, "
    "longer beginnings, more draws, another temperature or another place in the document may bring out more; near "
    "copies, summaries and translations are not counted.",
    "None found does not mean none there. The bounds hold for the documents of the same source or rights holder that "
    "could be tested, at one place each; a document that gives nothing back there may do so elsewhere. They say "
    "nothing about one single work, and nothing about documents of which no window holds enough text. Copies of a text "
    "in other documents are not counted in how often it was read.",
    "The control is only as good as the split. Quotations, formulae and standard wording that stand in both halves "
    "raise both figures; a copy of a training document that was not recognised as one lowers the difference. Where the "
    "model goes on from one that others trained, their training may have held the documents of the control.",
    "Models of more parameters, text that is repeated more often, and longer beginnings give more verbatim text "
    "(Carlini et al., arXiv:2202.07646). A small model that gives back little says little about a larger one that is "
    "trained on the same text.",
    "Why it is measured: the Regional Court of Munich I held that song texts memorised in the weights of a language "
    "model are reproductions which the exception for text and data mining does not cover (LG München I, judgment of "
    "11 November 2025, 42 O 14139/24, GEMA v OpenAI). Whether a finding in this paper is such a reproduction is a "
    "question for lawyers, and this paper does not answer it.",
)


def paper(ledger: Ledger) -> Paper:
    """The dossier of a release; every answer is "not recorded" where the model was not measured.

    Raises:
        InputError: the report of the measurement cannot be read, or is about another model.
    """
    measured = _Measured.of(ledger.memorisation) if ledger.memorisation is not None else None
    return Paper(
        name="memorisation",
        title=f"Memorisation dossier: {ledger.title or ledger.name} {ledger.version}",
        about="How much of its training text the model gives back word for word: what was tested, what came out, and "
        "how sure that is.",
        sections=(
            Section("1", "What was tested, and how", tuple(_tested(ledger, measured))),
            Section("2", "Documents by source", tuple(_documents(measured, "source"))),
            Section("3", "Documents by rights holder", tuple(_documents(measured, "rights_holder"))),
            Section("4", "Conversations", tuple(_conversations(ledger, measured))),
            Section("5", "Canaries", tuple(_canaries(measured))),
            Section("6", "Goldfish loss", tuple(_goldfish(ledger, measured))),
            Section("7", "What this does not show", _LIMITS),
        ),
    )


class _Measured:
    """The report of a measurement, whose values are given out with their place."""

    def __init__(self, artifact: Artifact, report: Mapping[str, Any]) -> None:
        self.artifact = artifact
        self.report = report

    @classmethod
    def of(cls, artifact: Artifact) -> _Measured:
        path = artifact.path / REPORT
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(report, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); measure the model again.") from None
        return cls(artifact, report)

    def cell(self, *place: str | int) -> Cell:
        """The value at a place of the report; an empty cell where it holds none."""
        return self.part(place)

    def part(self, row: Place, *rest: str | int) -> Cell:
        """The value at a place within a row, backed by the row: what a line of a table needs."""
        value: Any = self.report
        for step in (*row, *rest):
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return Cell(None)
        return Cell(value, self.source(row)) if value is not None else Cell(None)

    def source(self, place: Place) -> str:
        """`memorisation/atlas-chat/1 memorisation.json groups.0`."""
        return f"{self.artifact.ref} {REPORT} {'.'.join(map(str, place))}"

    def rows(self, *place: str) -> list[Mapping[str, Any]]:
        """A list of the report; none where it holds none."""
        value = self.part(place).value
        return value if isinstance(value, list) else []

    def count_of(self, part: str, whole: str) -> Cell:
        """A number of the population, and what it is a part of: `812 of 21,203`."""
        found, every = (self.cell("population", key) for key in (part, whole))
        return Cell(found.value, found.source, f"{found.shown()} of {every.shown()}") if found.is_recorded else found

    def times(self, row: Place) -> Cell:
        """How often the text that could be tested was read: `1`, or `2 to 5, 3.2 on average`."""
        found = self.part(row, "times_read")
        if self.part(row, "testable").value == 0:
            return not_applicable("nothing could be tested", self.source(row))
        if not isinstance(found.value, Mapping):
            return found
        least, mean, most = (found.value[key] for key in ("least", "mean", "most"))
        text = f"{least:,}" if least == most else f"{least:,} to {most:,}, {mean:,.1f} on average"
        return Cell(mean, found.source, text)

    def figure(self, row: Place, side: str) -> Cell:
        """A share with its bounds."""
        found, source = self.part(row, side).value, self.source(row)
        if not isinstance(found, Mapping):
            return Cell(None)
        tested, extracted = found["tested"], found["extracted"]
        if not tested:
            return not_applicable("nothing to test", source)
        if not extracted:
            return Cell(0.0, source, f"0 of {tested:,} (below {_percent(found['below'])})")
        bounds = f"{_percent(found['low'])} to {_percent(found['high'])}"
        return Cell(found["share"], source, f"{extracted:,} of {tested:,}: {_percent(found['share'])} ({bounds})")

    def difference(self, row: Place) -> Cell:
        """A difference of shares with its bounds."""
        found = self.part(row, "difference").value
        if not isinstance(found, Mapping):
            return not_applicable("not both were tested", self.source(row))
        points = [f"{100 * found[key]:+.1f}" for key in ("value", "low", "high")]
        return Cell(found["value"], self.source(row), f"{points[0]} points ({points[1]} to {points[2]})")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# --------------------------------------------------------------------------- what was tested


def _tested(ledger: Ledger, measured: _Measured | None) -> Iterator[Entry | str]:
    if measured is None:
        yield Entry("1.1", "Was the model tested for verbatim training text?", Cell(None))
        return
    artifact = measured.artifact
    yield Entry("1.1", "Model", _model(ledger, artifact))
    yield Entry("1.2", "Tokens given", _lengths(measured))
    yield Entry("1.3", "Tokens that had to follow", measured.cell("used", "continuation_tokens"))
    yield Entry("1.4", "Continuations drawn at random behind each beginning", measured.cell("samples"))
    yield Entry("1.5", "Temperature of these", measured.cell("temperature"))
    yield Entry("1.6", "Is it recorded what training read?", measured.cell("is_reading_recorded"))
    yield Entry("1.7", "Tokens that training read at a time", measured.cell("window_tokens"))
    yield Entry("1.8", "Tokens of the training documents that were read", measured.count_of("read_tokens", "tokens"))
    yield Entry("1.9", "Documents that could be tested: the population", measured.count_of("testable", "documents"))
    yield Entry("1.10", "Tokens that could be tested", measured.count_of("testable_tokens", "tokens"))
    yield Entry("1.11", "Times that these were read", measured.times(("population",)))
    yield Entry("1.12", "Training documents tested", ledger.fact(artifact, "tested_documents"))
    yield Entry("1.13", "Of these, extracted by any length and any draw", ledger.fact(artifact, "extracted_documents"))
    yield Entry("1.14", "Held-out documents tested as the control", ledger.fact(artifact, "control_documents"))
    yield Entry("1.15", "Of these, continued word for word", ledger.fact(artifact, "control_extracted"))
    for number, key in (("1.16", "extracted"), ("1.17", "control")):
        what = f"Of those of {'1.13' if key == 'extracted' else '1.15'}, passages that stand in the text more than once"
        yield Entry(number, what, ledger.fact(artifact, f"{key}_elsewhere"))
    yield from _HOW


def _model(ledger: Ledger, artifact: Artifact) -> Cell:
    """The model that was measured. Raises InputError if that is not the one that is released."""
    for number, named in enumerate(records.inputs_of(artifact.record)):
        if named.ref == ledger.model.ref and named.digest == ledger.model.digest:
            return Cell(named.ref, f"{artifact.ref} step.json inputs.{number}")
    raise InputError(f"{artifact.ref}: measures another model than {ledger.model.ref}; measure that one.")


def _lengths(measured: _Measured) -> Cell:
    """The prefix lengths, and those that the recipe asked for but the context or a window has no room for."""
    used, asked = measured.cell("used", "prefix_tokens"), measured.cell("asked", "prefix_tokens")
    left_out = [length for length in asked.value or [] if length not in (used.value or [])]
    if used.value is None or not left_out:
        return used
    text = (
        f"{', '.join(map(str, used.value))} (too long for the context or the window: {', '.join(map(str, left_out))})"
    )
    return Cell(used.value, f"{used.source}; {asked.source}", text)


# --------------------------------------------------------------------------- documents


def _documents(measured: _Measured | None, kind: str) -> Iterator[Entry | Table | str]:
    number, what = ("2", "source") if kind == "source" else ("3", "rights holder")
    every = enumerate(measured.rows("groups") if measured else [])
    groups = [(place, group) for place, group in every if group.get("kind") == kind]
    if measured is None or not groups:
        yield Entry(f"{number}.1", f"Extraction by {what}", Cell(None))
        return
    yield _supply(measured, groups, _KINDS[kind])
    yield _results(measured, groups, _KINDS[kind])
    left_out = measured.cell("rights_holders_left_out")
    if kind == "rights_holder" and left_out.value:
        yield Entry("3.1", "Rights holders with less text, not tested on their own", left_out)


def _supply(measured: _Measured, groups: Sequence[tuple[int, Mapping[str, Any]]], what: str) -> Table:
    columns = (
        what, "in training", "never read", "too short", "could be tested", "their tokens", "times read", "tested",
        "held out", "of these tested",
    )  # fmt: skip
    counts = ("documents", "never_read", "short", "testable", "testable_tokens")
    rows = []
    for number, _ in groups:
        at: Place = ("groups", number)
        rows.append(
            (
                measured.part(at, "name"),
                *(measured.part(at, "train", key) for key in counts),
                measured.times((*at, "train")),
                measured.part(at, "train", "tested"),
                *(measured.part(at, "control", key) for key in ("documents", "tested")),
            )
        )
    note = (
        "Never read: not one token of it. Too short: no window that was read holds the shortest beginning and the "
        "continuation. Tokens and times: of the windows that hold them."
    )
    return Table(columns, tuple(rows), title="Documents", note=note)


def _results(measured: _Measured, groups: Sequence[tuple[int, Mapping[str, Any]]], what: str) -> Table:
    columns = (what, "tokens given", "decoding", *_COMPARED)
    rows = []
    for number, group in groups:
        for place, _ in enumerate(group.get("results", [])):
            at: Place = ("groups", number, "results", place)
            heads = (measured.part(at, key) for key in ("prefix_tokens", "decoding"))
            rows.append((measured.part(at[:2], "name"), *heads, *_compared(measured, at)))
    note = "Longest shared run: characters that a greedy continuation and the true one have in common in one piece."
    return Table(columns, tuple(rows), title="Results", note=note)


def _compared(measured: _Measured, row: Place) -> Iterator[Cell]:
    yield measured.figure(row, "train")
    yield measured.figure(row, "control")
    yield measured.difference(row)
    for side in ("train", "control"):
        found = measured.part(row, side, "longest_characters")
        is_tested = bool(measured.part(row, side, "tested").value)
        why = "only greedy ones are compared" if is_tested else "nothing to test"
        yield found if found.is_recorded else not_applicable(why, measured.source(row))


# --------------------------------------------------------------------------- conversations, canaries, Goldfish


def _conversations(ledger: Ledger, measured: _Measured | None) -> Iterator[Entry | Table | str]:
    if measured is None:
        yield Entry("4.1", "Recorded answers given back word for word", Cell(None))
        return
    rows = measured.rows("conversations")
    if not rows:
        source = measured.source(("conversations",))
        why = "no conversation fits the model's context" if ledger.is_chat else "the model was tuned on none"
        yield Entry("4.1", "Recorded answers given back word for word", not_applicable(why, source))
        return
    columns = ("source", "conversations", "never shown", "answers", *_COMPARED)
    lines = []
    for place, _ in enumerate(rows):
        at: Place = ("conversations", place)
        heads = (measured.part(at, key) for key in ("source", "conversations", "never_shown", "answers"))
        lines.append((*heads, *_compared(measured, at)))
    yield Table(columns, tuple(lines), title="Recorded answers given back word for word")
    yield (
        "Asked as in tuning, with everything before the last answer. What tuning never showed, because it was too long "
        "or its turn did not come, is not asked. An answer is long from 16 tokens on. A short one "
        "may be the only right answer, so it shows knowledge rather than memorised text; the control, conversations "
        "that were held out, shows the same there."
    )


def _canaries(measured: _Measured | None) -> Iterator[Entry | Table | str]:
    question = "Canaries placed in the training text"
    if measured is None:
        yield Entry("5.1", question, Cell(None))
        return
    rows = measured.rows("canaries", "by_repeats")
    if not rows:
        yield Entry("5.1", question, Cell("none", measured.source(("canaries",)), "none were placed"))
        return
    count = len(measured.rows("canaries", "each"))
    yield Entry("5.1", question, Cell(count, measured.source(("canaries", "each"))))
    others = measured.cell("canaries", "candidates")
    yield Entry("5.2", "Random texts of the same form that they were compared with", others)
    yield Entry("5.3", "The highest exposure that these can show, in bits", measured.cell("canaries", "highest"))
    keys = ("repeats", "canaries", "mean", "least", "most")
    lines = tuple(
        tuple(_bits(measured.part(("canaries", "by_repeats", place), key)) for key in keys)
        for place in range(len(rows))
    )
    columns = ("documents that hold it", "canaries", "mean exposure in bits", "lowest", "highest")
    yield Table(columns, lines, title="Exposure", note=_read_note(measured))
    yield (
        "A canary is a random text that curation placed in the training text for this measurement. Its exposure "
        "(Carlini et al., USENIX Security 2019, arXiv:1802.08232) says by how many bits the model tells it from random "
        "texts of the same form that it never read. Texts that were not placed have 1.44 bits on average."
    )


def _read_note(measured: _Measured) -> str:
    """How often the canaries were read, where that is recorded."""
    times = [row.get("times_read") for row in measured.rows("canaries", "each")]
    known = [number for number in times if isinstance(number, int)]
    if not known:
        return ""
    least, most = min(known), max(known)
    times_read = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"Training read each canary in full {times_read} times, all copies and epochs counted."


def _bits(found: Cell) -> Cell:
    return Cell(found.value, found.source, f"{found.value:.2f}") if isinstance(found.value, float) else found


def _goldfish(ledger: Ledger, measured: _Measured | None) -> Iterator[Entry | Table | str]:
    yield Entry("6.1", "Was one target in so many hidden in pre-training?", _goldfish_setting(ledger))
    coverage = measured.cell("goldfish", "share") if measured else Cell(None)
    if measured is not None and isinstance(coverage.value, float):
        hidden, targets = measured.cell("goldfish", "hidden").value, measured.cell("goldfish", "targets").value
        text = f"{_percent(coverage.value)} ({hidden:,} of {targets:,} tokens)"
        coverage = Cell(coverage.value, measured.source(("goldfish",)), text)
    yield Entry("6.2", "Tokens that had no loss, in the windows of the tested places", coverage)
    yield (
        "The Goldfish loss (Hans et al., arXiv:2406.10209) leaves out one target in k, chosen by the tokens before it, "
        "so that a text cannot be learnt as a whole and copies of it hide the same places."
    )


def _goldfish_setting(ledger: Ledger) -> Cell:
    """As the newest pre-training has it in its record."""
    for model in reversed(ledger.of_kind("model")):
        settings = records.definition_of(model.record).get("pretrain")
        if isinstance(settings, Mapping) and isinstance(settings.get("goldfish"), int):
            k = settings["goldfish"]
            return Cell(k, f"{model.ref} step.json pretrain.goldfish", f"one in {k}" if k else "no")
    return Cell(None)
