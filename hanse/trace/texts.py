"""The text that a trace looks through: what a dataset kept, and the conversations that a model was tuned on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.store.documents import TABLE, count_documents
from hanse.store.stage import Artifact, Store
from hanse.store.tables import ancestry

if TYPE_CHECKING:
    import pyarrow as pa

#: The kinds of artifact that hold text.
KINDS = ("dataset", "conversations")
#: What is known about a document, all of it text but for `line`; None where it is not recorded.
COLUMNS = (
    "id", "split", "source", "collection", "file", "line", "url", "licence", "rights_holder", "author", "title",
    "language",
)  # fmt: skip
_CONVERSATIONS = "train.jsonl"
_TEXTS_AT_A_TIME, _ROWS_AT_A_TIME = 128, 8192
_SAMPLED_LINES = 1000


def behind(store: Store, what: Artifact) -> list[Artifact]:
    """The datasets and conversations that an artifact was made from, or it itself if it is one; by name.

    Raises:
        InputError: there are none, or an ancestor is missing, damaged or not the one that was recorded.
    """
    found = ancestry(store, what)
    texts = [found[ref] for ref in sorted(found) if found[ref].kind in KINDS]
    if not texts:
        raise InputError(f"{what.ref}: has no text behind it; name a dataset, conversations or what was made of them.")
    return texts


def size_of(artifact: Artifact) -> int:
    """About how many bytes of text an artifact of one of KINDS holds: for estimates, without reading it.

    Raises:
        InputError: its files cannot be read, or it is of another kind.
    """
    _require_text(artifact)
    with _readable(artifact):
        if artifact.kind == "conversations":
            return _said(artifact.path / _CONVERSATIONS)
        return sum(group.bytes for group in count_documents(artifact.path / TABLE, ("split",)))


def _said(path: Path) -> int:
    """Bytes that are said in a file of conversations, by the share of its first lines that is."""
    said = read = 0
    with path.open("rb") as lines:
        for line in itertools.islice(lines, _SAMPLED_LINES):
            said += sum(len((each.get("content") or "").encode("utf-8")) for each in json.loads(line)["messages"])
            read += len(line)
    return round(said / max(read, 1) * path.stat().st_size)


def texts_of(artifact: Artifact) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The text of each document in UTF-8, and its COLUMNS.

    Of a dataset, what curation kept, as it kept it: personal data is masked already. Of conversations, all messages of
    one that is trained on, in order, one behind the other with a line break between them.

    Raises:
        InputError: the artifact holds no text, cannot be read, or its text and its document table disagree.
    """
    _require_text(artifact)
    return _of_dataset(artifact) if artifact.kind == "dataset" else _of_conversations(artifact)


def _require_text(artifact: Artifact) -> None:
    if artifact.kind not in KINDS:
        raise InputError(f"{artifact.ref}: holds no text of its own; name one of these kinds: {', '.join(KINDS)}.")


def _of_dataset(dataset: Artifact) -> Iterator[tuple[bytes, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted((dataset.path / "text").glob("*.parquet"))
    if not paths:
        raise InputError(f"{dataset.ref}: has no text/*.parquet, so there is nothing to look through.")
    known: dict[str, Iterator[dict[str, Any]]] = {}
    with _readable(dataset):
        for path in paths:
            split = path.name.rpartition("-")[0]
            if split not in known:
                known[split] = _kept(dataset.path / TABLE, split)
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_TEXTS_AT_A_TIME, columns=["id", "text"]):
                    texts = batch["text"].cast(pa.binary()).to_pylist()
                    for name, text in zip(batch["id"].to_pylist(), texts, strict=True):
                        row = next(known[split], None)
                        if row is None or row["id"] != name:
                            raise _disagreement(dataset, name)
                        yield text, row
    left = next((row for rows in known.values() for row in rows), None)
    if left is not None:
        raise _disagreement(dataset, left["id"])


def _kept(table: Path, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a document table that are in a split, in order: the order of its text."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        present = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=present):
            for row in batch.filter(pc.equal(batch["split"], split)).to_pylist():
                yield dict.fromkeys(COLUMNS) | row


def _of_conversations(conversations: Artifact) -> Iterator[tuple[bytes, dict[str, Any]]]:
    holders = {each.get("name"): each.get("rights_holder") for each in conversations.facts.get("sources", ())}
    path = conversations.path / _CONVERSATIONS
    with _readable(conversations), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            found = json.loads(line)
            said = [message.get("content") or "" for message in found["messages"]]
            about: dict[str, Any] = {name: str(found[name]) if found.get(name) else None for name in COLUMNS}
            about |= {"split": "train", "file": _CONVERSATIONS, "line": number}
            about["rights_holder"] = about["rights_holder"] or holders.get(found.get("source")) or None
            yield "\n".join(said).encode("utf-8"), about


def _disagreement(dataset: Artifact, name: str) -> InputError:
    return InputError(f"{dataset.ref}: its text and its {TABLE} disagree at document {name}; make the dataset again.")


@contextmanager
def _readable(artifact: Artifact) -> Iterator[None]:
    """Say in one sentence that a file of the artifact cannot be read."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # pyarrow's errors are ValueErrors
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{artifact.ref}: its text cannot be read ({told}); restore it, or make it again.") from None


def schema() -> pa.Schema:
    """The columns of an index's table of documents: COLUMNS, and the `artifact` that the text is of."""
    import pyarrow as pa

    kinds = {"line": pa.int64()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in (*COLUMNS, "artifact")])
