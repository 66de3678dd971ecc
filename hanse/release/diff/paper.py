"""What changed since the release before, as a paper: each figure with the place in each release where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanse.release.diff.changes import TRAINING, Changes, Moved, Pair
from hanse.release.diff.documents import DocumentChanges, Sums
from hanse.release.papers.paper import NO_ADVICE, Cell, Entry, Paper, Section, Table

MOST_DOCUMENTS = 1000  # named in a paper; the tables of documents name all
TABLE_OF_DOCUMENTS = "provenance/documents.parquet"
VERDICTS = {
    "better": "better, intervals apart",
    "worse": "worse, intervals apart",
    "apart": "intervals apart",
    "overlapping": "intervals overlap",
    "came": "not measured before",
    "went": "not measured now",
    "no interval": "no intervals to compare",
}


def paper(found: Changes) -> Paper:
    """The changes as a paper of numbered sections."""
    sections = [
        Section("1", "The two releases", tuple(_releases(found))),
        Section("2", "How it was made", tuple(_definitions(found))),
        Section("3", "Text", tuple(_text(found))),
        Section("4", "Model and training", tuple(_model(found))),
        Section("5", "Scores", tuple(_scores(found))),
        Section("6", "Files and withdrawals", tuple(_files(found))),
    ]
    if found.doubts:
        sections.append(Section("7", "What does not fit together", found.doubts))
    about = f"What differs between {found.old.name} and {found.new.name}, by their own records. {NO_ADVICE}"
    return Paper("changes", f"Changes from {found.old.name} to {found.new.name}", about, tuple(sections))


def _releases(found: Changes) -> list[Entry | Table | str]:
    old, new = found.old, found.new
    entries: list[Entry | Table | str] = [
        Entry("1.1", "Release before", Cell(old.name, old.place("step.json", "subject"))),
        Entry("1.2", "This release", Cell(new.name, new.place("step.json", "subject"))),
    ]
    same = [pair.what for pair in found.about if not pair.differs]
    if any(pair.differs for pair in found.about):
        entries.append(_pairs("What it says about itself", [pair for pair in found.about if pair.differs]))
    return [*entries, *([f"The same in both: {', '.join(same)}."] if same else [])]


def _definitions(found: Changes) -> list[Entry | Table | str]:
    if not found.definitions:
        return ["Every step is defined as before."]
    rows = []
    for drift in found.definitions:
        step = drift.new if drift.new == drift.old else f"{drift.old or 'none'} -> {drift.new or 'none'}"
        source = "; ".join(filter(None, (drift.old_place, drift.new_place)))
        lines = drift.lines or (("a new step",) if not drift.old else ("no such step any more",))
        rows += [(Cell(step, source), Cell(line, source)) for line in lines]
    return [Table(("step", "change"), tuple(rows))]


def _text(found: Changes) -> list[Entry | Table | str]:
    talk = [_pairs("", [found.conversations])] if found.conversations.differs else []
    if found.documents is None:
        return ["One of the releases carries no table of documents, so these cannot be compared.", *talk]
    documents = found.documents
    places = [found.old.place(TABLE_OF_DOCUMENTS), found.new.place(TABLE_OF_DOCUMENTS)]
    both = "; ".join(places)
    counts = [
        Pair("documents kept", documents.old[0], documents.new[0], places[0], places[1]),
        Pair("bytes of text", documents.old[1], documents.new[1], places[0], places[1]),
    ]
    body: list[Entry | Table | str] = [
        _pairs("", counts),
        Entry("3.1", "Documents in both", Cell(documents.stayed, both)),
        Entry("3.2", "Documents that left", Cell(len(documents.left), both)),
        Entry("3.3", "Documents that came", Cell(len(documents.came), both)),
    ]
    if len(documents.left) or len(documents.came):
        body.append(_sums("Why the other release does not have them", "why", documents.reasons, both))
        body += [_sums(f"By {name}", name, sums, both) for name, sums in documents.groups.items()]
    if documents.relicensed:
        rows = tuple(
            (_said(before, places[0]), _said(after, places[1]), Cell(count, both))
            for (before, after), count in documents.relicensed.items()
        )
        body.append(Table(("licence before", "licence now", "documents"), rows, "In both, under another licence"))
    return [*body, *_named(documents, places), *talk]


def _named(documents: DocumentChanges, places: Sequence[str]) -> list[Entry | Table | str]:
    """The documents that left, by id."""
    if not len(documents.left):
        return []
    columns = ("id", "source", "licence", "language", "bytes", "why")
    rows = tuple(
        tuple(_said(row[name], places[1] if name == "why" else places[0]) for name in columns)
        for row in documents.left.slice(0, MOST_DOCUMENTS).to_pylist()
    )
    hidden = len(documents.left) - len(rows)
    note = f"And {hidden:,} more: those kept in {places[0]} and not in {places[1]}." if hidden else ""
    return [Table(columns, rows, "Documents that left", note)]


def _model(found: Changes) -> list[Entry | Table | str]:
    body: list[Entry | Table | str] = []
    if found.same_weights is not None:
        places = "; ".join(side.place("SHA256SUMS") for side in (found.old, found.new))
        body.append(Entry("4.1", "The same weights, bit for bit", Cell(found.same_weights, places)))
    shape = [pair for pair in found.shape if pair.differs or "parameters" in pair.what]
    training = [replace(pair, what=TRAINING[pair.what]) for pair in found.training]
    body += [_pairs("Shape", shape), _pairs("Training, all steps together", training)]
    return body


def _scores(found: Changes) -> list[Entry | Table | str]:
    if not found.scores:
        return ["Neither release carries scores."]
    places = [side.place("evaluation/scores.json") for side in (found.old, found.new)]
    rows = tuple(
        (
            Cell(each.language, "; ".join(places)), Cell(each.task, "; ".join(places)),
            Cell(each.metric, "; ".join(places)), _score(each.old, places[0]), _score(each.new, places[1]),
            Cell(VERDICTS[each.verdict], "; ".join(places)),
        )
        for each in found.scores
    )  # fmt: skip
    note = "In brackets the interval. Intervals that overlap do not show that nothing changed."
    return [_tally(found.scores), Table(("language", "task", "metric", "before", "now", "change"), rows, "", note)]


def _tally(scores: Sequence[Moved]) -> str:
    counts = [(sum(each.verdict == verdict for each in scores), told) for verdict, told in VERDICTS.items()]
    return f"Of {len(scores):,} scores: {'; '.join(f'{count:,} {told}' for count, told in counts if count)}."


def _score(row: Mapping[str, Any] | None, place: str) -> Cell:
    if row is None or row.get("value") is None:
        return Cell(None)
    value = {key: row.get(key) for key in ("value", "low", "high", "n")}
    low, high = value["low"], value["high"]
    shown = f"{_rounded(value['value'])}" + (f" [{_rounded(low)}, {_rounded(high)}]" if low is not None else "")
    return Cell(value, place, shown)


def _rounded(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _files(found: Changes) -> list[Entry | Table | str]:
    body: list[Entry | Table | str] = []
    place = "; ".join(side.place("SHA256SUMS") for side in (found.old, found.new))
    for number, (state, title) in enumerate((("came", "New"), ("went", "Gone"), ("changed", "Changed")), 1):
        if found.new.sums:
            names = [path for path, each in found.files.items() if each == state]
            body.append(Entry(f"6.{number}", f"{title} files, besides the weights", Cell(names, place)))
    drawn = "; ".join(side.place("step.json", "withdrawals") for side in (found.old, found.new))
    body.append(Entry("6.4", "Withdrawals that this release is the first to leave out", _listed(found, 0, drawn)))
    if found.withdrawals[1]:
        body.append(Entry("6.5", "Withdrawals that only the release before knew", _listed(found, 1, drawn)))
    return body


def _listed(found: Changes, side: int, place: str) -> Cell:
    return Cell([f"sha256:{digest}" for digest in found.withdrawals[side]], place)


def _pairs(title: str, pairs: Sequence[Pair]) -> Table:
    rows = tuple(
        (
            Cell(pair.what, f"{pair.old_place}; {pair.new_place}"),
            _said(pair.old, pair.old_place),
            _said(pair.new, pair.new_place),
        )
        for pair in pairs
    )
    return Table(("", "before", "now"), rows, title)


def _sums(title: str, name: str, sums: Sequence[Sums], place: str) -> Table:
    rows = tuple(
        (
            _said(each.key, place), Cell(each.left, place), Cell(each.left_bytes, place), Cell(each.came, place),
            Cell(each.came_bytes, place),
        )
        for each in sums
    )  # fmt: skip
    return Table((name, "left", "bytes", "came", "bytes"), rows, title)


def _said(value: Any, place: str) -> Cell:
    if value is None or value == "":
        return Cell(None)
    return Cell(value, place, f"{value:,.6g}" if isinstance(value, float) else "")
