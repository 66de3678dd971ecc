"""What documents went into, for a terminal: a tree from datasets to releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanse.report.plain import NOT_RECORDED, count, share, shortened, size
from hanse.trace.exposure import Exposure, Sight
from hanse.trace.impact import MEASURES, Impact, Reached
from hanse.trace.matching import Held, Lying, Spoken
from hanse.trace.seen import Kept, Seen

WIDTH = 160  # characters of anything that came with a document
SHOWN_FILES = 8  # of shards
SHOWN_COPIES = 20  # that were found through the index
NAMED_NOT_CLEANED = (
    "Weights that saw a text are named here, not cleaned: nothing takes it out of them but training without it."
)


def text(impact: Impact) -> str:
    """The whole answer."""
    return "\n".join(_lines(impact))


def _lines(impact: Impact) -> Iterator[str]:
    yield shortened(impact.wanted, WIDTH)
    if not impact.reached:
        places = (
            f"{len(impact.looked_at)} datasets and conversations" if impact.looked_at else "a store without any text"
        )
        yield f"nothing in {places} matches."
    under: dict[str, list[Reached]] = {}
    for each in impact.reached:
        under.setdefault(each.under, []).append(each)
    for root in under.get("", []):
        yield ""
        yield from _branch(root, under, "", "")
    if impact.reached:
        yield ""
        yield f"releases that hold it: {', '.join(impact.releases) or 'none'}"
        if impact.clean:
            yield f"releases that do not: {', '.join(impact.clean)}"
    if impact.unclear:
        yield f"releases of which it cannot be said: {', '.join(impact.unclear)}"
    if impact.copies is not None:
        yield from _copies(impact)
    for title, told in (
        ("could not be followed, so that this may not be all:", impact.gaps),
        ("looks wrong in the records:", impact.warnings),
        ("not covered:", impact.notes),
    ):
        if told:
            yield ""
            yield title
            yield from (f"  {each}" for each in told)
    if impact.reached:
        yield ""
        yield NAMED_NOT_CLEANED


def _branch(node: Reached, under: Mapping[str, Sequence[Reached]], joint: str, indent: str) -> Iterator[str]:
    mark = {True: "", False: "  [does not hold it]", None: "  [cannot be said]"}[node.holds]
    mark = "" if node.kind in MEASURES else mark  # what it does with the text says enough
    yield f"{joint}{node.ref}  {node.how}{mark}"
    children = under.get(node.ref, ())
    bar = indent + ("│  " if children else "   ")
    yield from (bar + line for line in _details(node))
    for number, child in enumerate(children, 1):
        is_last = number == len(children)
        yield from _branch(child, under, indent + ("└─ " if is_last else "├─ "), indent + ("   " if is_last else "│  "))


def _details(node: Reached) -> Iterator[str]:
    if node.held is not None:
        yield from _of_table(node.held)
    if node.spoken is not None:
        yield from _of_conversations(node.spoken)
    if node.lying is not None:
        yield from _of_shards(node.lying)
    for each in node.seen:
        yield from _of_training(each)


def _of_table(held: Held) -> Iterator[str]:
    yield f"{_documents(held.documents)} of {size(held.bytes)}; {size(held.kept_bytes)} of text kept"
    yield from (_document(row) for row in held.shown)
    if held.documents > len(held.shown):
        yield f"and {count(held.documents - len(held.shown))} more; with --limit"
    if held.others:
        yield f"besides, as copies of some of these: {_documents(held.others)}"
        yield from (f"  {_document(row)}" for row in held.others_shown)


def _of_conversations(spoken: Spoken) -> Iterator[str]:
    yield from (_document(row) for row in spoken.shown)
    if spoken.conversations > len(spoken.shown):
        yield f"and {count(spoken.conversations - len(spoken.shown))} more; with --limit"


def _of_shards(lying: Lying) -> Iterator[str]:
    yield (
        f"{_documents(lying.documents)}, {count(lying.tokens)} tokens: {share(lying.share)} of the training text"
        + (f"; {count(lying.copies)} of them stand in for a copy" if lying.copies else "")
    )
    for name, documents, tokens in lying.files[:SHOWN_FILES]:
        yield f"{name}: {_documents(documents)}, {count(tokens)} tokens"
    if len(lying.files) > SHOWN_FILES:
        yield f"and in {len(lying.files) - SHOWN_FILES} more files; all with --json"
    if lying.heldout_tokens:
        yield f"{count(lying.heldout_tokens)} tokens were held out: measured with, never trained on"


def _of_training(each: Seen) -> Iterator[str]:
    if each.exposure is None:
        yield f"how often it saw {each.of} cannot be computed: {each.why}"
        return
    yield from _exposed(each, each.exposure)
    yield from (f"checkpoint {kept.folder}: {_by_then(kept, each.exposure)}" for kept in each.checkpoints)
    yield from (f"but {note}" for note in each.notes)


def _exposed(each: Seen, exposure: Exposure) -> Iterator[str]:
    if exposure.first is None or exposure.last is None:
        yield f"saw none of {count(exposure.tokens)} tokens in {each.of}, in {count(each.steps)} steps"
        return
    yield (
        f"trained on {count(exposure.trained_tokens)} tokens of it: {share(exposure.share)} of all; seen "
        f"{exposure.times:.2f} times ({exposure.least} to {exposure.most})"
        + (f", {count(exposure.unseen)} of {count(exposure.texts)} texts never" if exposure.unseen else "")
    )
    yield f"first in {_moment(exposure.first)}, last in {_moment(exposure.last)}, of {count(each.steps)} steps"


def _moment(sight: Sight) -> str:
    return f"step {count(sight.step)} (after {count(sight.token)} tokens)"


def _by_then(kept: Kept, exposure: Exposure) -> str:
    if not kept.trained_tokens:
        return "before it saw any of it"
    part = kept.trained_tokens / exposure.trained_tokens if exposure.trained_tokens else 0.0
    return f"after {count(kept.trained_tokens)} tokens of it ({share(part)})"


def _documents(number: int) -> str:
    return f"{count(number)} document{'s' * (number != 1)}"


def _document(row: Mapping[str, Any]) -> str:
    if "hash" in row:
        return f"hash {row['hash']}  {row.get('licence') or NOT_RECORDED}"
    title = shortened(row["title"], WIDTH) if row.get("title") else "untitled"
    author = f" ({shortened(row['author'], WIDTH)})" if row.get("author") else ""
    parts = [str(row.get("id") or NOT_RECORDED), title + author, str(row.get("licence") or NOT_RECORDED)]
    parts += [shortened(row["url"], WIDTH)] if row.get("url") else []
    if "split" in row or row.get("drop_reason"):
        why = f"dropped: {', '.join(row.get('drop_reason') or [NOT_RECORDED])}"
        parts.append(f"kept in {row['split']}" if row.get("split") else why)
    return "  ".join(shortened(part, WIDTH) for part in parts)


def _copies(impact: Impact) -> Iterator[str]:
    found = impact.copies or ()
    yield ""
    yield f"documents that share passages with it, by the index: {count(len(found))}" + (":" if found else "")
    for each in found[:SHOWN_COPIES]:
        yield f"  {each.artifact}  {_document(each.document)}: {each.passages} passages"
    if len(found) > SHOWN_COPIES:
        yield f"  and {count(len(found) - SHOWN_COPIES)} more; all with --json"
    if found:
        how = "--show-names, then --id" if "hash" in found[0].document else "--id"
        yield f"  a passage in two documents may be a copy, a quotation, or have one source; follow one with {how}"
