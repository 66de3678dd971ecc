"""What a dataset is made of, counted once from its table of documents: what its card, its Croissant and the bills say.

Conversations count as a dataset too: a chat model is trained on them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hanse.data.rights.licence import problem
from hanse.release.attribution import flags
from hanse.release.ledger import Ledger, SourceRecord, table_of
from hanse.store import record as records
from hanse.store.digest import SUMS, parse_sums
from hanse.store.documents import count_documents
from hanse.store.stage import Artifact

KINDS = ("dataset", "conversations")
#: What a table says where a text came without a licence, or where nobody said anything.
NO_LICENCE = ("", "NOASSERTION", "NONE")
LONGEST_ADDRESS = 2000
_COLUMNS = ("language", "licence", "source", "collection", "split")
_COPIES = ("duplicate", "near-duplicate")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_NEVER_IN_ADDRESS = frozenset('<>"{}|\\^`')


@dataclass(frozen=True)
class File:
    """A file of an artifact: its path there, SHA-256, and size in bytes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Part:
    """The kept texts that share a language, a licence, a source or a split.

    Attributes:
        name: the language's code, the licence ...; empty where the table does not say.
        texts: documents or conversations.
        bytes: of their text in UTF-8; None where the table does not say.
        tokens: by the model's tokenizer; None where no shards were counted.
    """

    name: str
    texts: int
    bytes: int | None
    tokens: int | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """What there is to say about a dataset or about conversations.

    Attributes:
        texts_are: `documents` or `conversations`.
        made: when its step was finished, RFC 3339.
        files: in the order of their paths.
        kept: all texts that stayed, together.
        seen: texts before curation; None where only the kept ones are listed.
        languages, licences, sources, collections, splits: the kept texts by each, most first. A collection is what
            a document itself calls its source.
        dropped: reason -> texts; a text may have several reasons.
        searched: documents that stayed and were searched for personal data; None where the table does not say.
        personal: kind of personal data -> findings in those.
        settings: `[curate]`, as recorded.
        declared: the sources, as the recipe declares them.
        tokens_by: whose count of tokens this is, `shards/name/version`; empty for none.
    """

    artifact: Artifact
    texts_are: str
    made: str
    files: tuple[File, ...]
    kept: Part
    seen: int | None
    languages: tuple[Part, ...]
    licences: tuple[Part, ...]
    sources: tuple[Part, ...]
    collections: tuple[Part, ...]
    splits: tuple[Part, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    searched: int | None = None
    personal: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[SourceRecord, ...] = ()
    tokens_by: str = ""

    @property
    def copies(self) -> int:
        """Texts left out because another that stayed is the same, or nearly."""
        return sum(self.dropped.get(reason, 0) for reason in _COPIES)

    @property
    def title(self) -> str:
        """`name/version`, as people say it beside the kind."""
        return f"{self.artifact.name}/{self.artifact.version}"

    @property
    def stem(self) -> str:
        """The beginning of the names of its papers, such as `dataset-atlas-1`."""
        return f"{self.artifact.kind}-{self.artifact.name}-{self.artifact.version}"

    def share(self, part: Part) -> float | None:
        """Its share of the kept bytes, from 0 to 1; None where bytes are not recorded."""
        return part.bytes / self.kept.bytes if part.bytes is not None and self.kept.bytes else None


def datasets(ledger: Ledger) -> tuple[DatasetFacts, ...]:
    """Every dataset and all conversations behind a release, by name."""
    found = [artifact for kind in KINDS for artifact in ledger.of_kind(kind)]
    return tuple(dataset_facts(ledger, artifact) for artifact in sorted(found, key=lambda each: each.ref))


def dataset_facts(ledger: Ledger, artifact: Artifact) -> DatasetFacts:
    """Read one of them; every row of its table (or every line of its conversations) is looked at once."""
    definition = records.definition_of(artifact.record)
    settings = definition.get("curate", {}) if artifact.kind == "dataset" else {}
    marks, by = _Marks(), ""
    tokens: Mapping[str, Mapping[str, int]] = {}
    if artifact.kind == "conversations":
        groups = _conversations(artifact.path)
    else:
        table = table_of(artifact)
        groups, marks = _documents(table), _marks(table)
        by, tokens = _tokens(ledger, artifact)
    parts = _parts(groups, tokens)
    return DatasetFacts(
        artifact=artifact,
        texts_are="documents" if artifact.kind == "dataset" else artifact.kind,
        made=artifact.record["predicate"]["runDetails"]["metadata"]["finishedOn"],
        files=tuple(_files(artifact)),
        kept=_whole(groups, sum(tokens["split"].values()) if by else None),
        seen=marks.seen,
        languages=parts["language"],
        licences=parts["licence"],
        sources=parts["source"],
        collections=parts["collection"],
        splits=parts["split"],
        dropped=dict(sorted(marks.dropped.items())),
        searched=marks.searched,
        personal=dict(sorted(marks.personal.items())),
        settings=settings,
        declared=tuple(each for each in ledger.sources if each.artifact.ref == artifact.ref),
        tokens_by=by,
    )


def web_address(text: object) -> str | None:
    """A text from outside as an IRI to emit: http or https, with a host, no password, nothing to break out of quotes.

    None for anything else, such as `javascript:` or a path; a reader would follow it.
    """
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_ADDRESS or not text.isprintable():
        return None
    if _NEVER_IN_ADDRESS & set(text) or any(unicodedata.category(sign)[0] in "CZ" for sign in text):
        return None
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        _ = parts.port  # raises ValueError where it is no number
    except ValueError:
        return None
    return text if is_web else None


def licence_names(licence: str) -> list[str]:
    """The names in an SPDX expression, exceptions included, in order; empty where it is no such expression."""
    if licence in NO_LICENCE or problem(licence) is not None:
        return []
    return [name for name in _NAME.findall(licence) if name not in ("AND", "OR", "WITH")]


def licence_addresses(licence: str) -> list[str]:
    """Where SPDX keeps the texts that an expression names; a `LicenseRef-` of somebody's own has none."""
    return [
        f"https://spdx.org/licenses/{name.removesuffix('+')}.html"
        for name in licence_names(licence)
        if "Ref-" not in name
    ]


def joint_expression(licences: Iterable[str]) -> str | None:
    """One SPDX expression for texts under several licences at once; None where a text came without one."""
    names = sorted(set(licences))
    if not names or not all(licence_names(name) for name in names):
        return None
    return " AND ".join(f"({name})" if " " in name and len(names) > 1 else name for name in names)


def duties(licence: str) -> str:
    """What a licence asks of whoever passes the text on, as words; empty when only attribution or nothing."""
    return ", ".join(flags(licence))


def counted(number: int, things: str) -> str:
    """`1 document`, `2 documents`."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def percent(share: float | None) -> str:
    """A share for people, `12.3 %`; small ones keep two digits, so that none becomes nothing."""
    if share is None:
        return "not recorded"
    return f"{share:.1%}".replace("%", " %") if share >= 0.01 or share == 0 else f"{share * 100:.2g} %"


@dataclass
class _Marks:
    """What curation found and why it dropped, over a whole table."""

    seen: int | None = None
    searched: int | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)


def _files(artifact: Artifact) -> Iterator[File]:
    sums = parse_sums((artifact.path / SUMS).read_text(encoding="utf-8"))
    for path in sorted(sums):
        yield File(path, sums[path], (artifact.path / path).stat().st_size)


def _documents(table: Path) -> list[tuple[tuple[str, ...], int, int | None]]:
    import pyarrow.parquet

    has_bytes = "bytes" in pyarrow.parquet.read_schema(table).names
    groups = count_documents(table, _COLUMNS)
    return [(group.key, group.documents, group.bytes if has_bytes else None) for group in groups]


def _marks(table: Path) -> _Marks:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    marks = _Marks()
    with pyarrow.parquet.ParquetFile(table) as file:
        columns = [name for name in ("drop_reason", "pii") if name in file.schema_arrow.names]
        marks.seen = file.metadata.num_rows
        for batch in file.iter_batches(columns=columns) if columns else ():
            rows = pa.Table.from_batches([batch])
            if "drop_reason" in columns:
                _add(marks.dropped, pc.list_flatten(rows["drop_reason"]))
                rows = rows.filter(pc.equal(pc.fill_null(pc.list_value_length(rows["drop_reason"]), 0), 0))
            if "pii" in columns:  # null where nobody searched, empty where nothing was found
                marks.searched = (marks.searched or 0) + len(rows) - rows["pii"].null_count
                _add(marks.personal, pc.struct_field(pc.list_flatten(rows["pii"]), "kind"))
    return marks


def _add(counts: Counter[str], values: Any) -> None:
    import pyarrow.compute as pc

    for each in pc.value_counts(values).to_pylist():
        if each["values"] is not None:
            counts[each["values"]] += each["counts"]


def _conversations(folder: Path) -> list[tuple[tuple[str, ...], int, int | None]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for split in ("train", "heldout"):
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                key = tuple(_text(split if name == "split" else row.get(name)) for name in _COLUMNS)
                total = found.setdefault(key, [0, 0])
                total[0] += 1
                total[1] += sum(_size(message.get("content")) for message in row["messages"])
    return [(key, texts, size) for key, (texts, size) in sorted(found.items())]


def _text(value: object) -> str:
    """A label of a record; a lone surrogate, which no file could carry, becomes a question mark."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _size(content: object) -> int:
    return len(content.encode("utf-8", "surrogatepass")) if isinstance(content, str) else 0


def _tokens(ledger: Ledger, dataset: Artifact) -> tuple[str, dict[str, Counter[str]]]:
    """Tokens by language, licence, source and split, from the newest shards of a dataset; and which those are."""
    found: dict[str, Counter[str]] = {name: Counter() for name in _COLUMNS}
    made = [
        shards
        for shards in ledger.of_kind("shards")
        if (shards.path / "shards.json").is_file()
        and any((i.ref, i.digest) == (dataset.ref, dataset.digest) for i in records.inputs_of(shards.record))
    ]
    if not made:
        return "", found
    splits = json.loads((made[-1].path / "shards.json").read_text(encoding="utf-8"))["splits"]
    for split, languages in splits.items():
        for language, counts in languages.items():
            found["split"][split] += counts["tokens"]
            found["language"][language] += counts["tokens"]
            for source, each in counts["sources"].items():
                found["source"][source] += each["tokens"]
                for licence, own in each["licences"].items():
                    found["licence"][licence] += own["tokens"]
    return made[-1].ref, found


def _whole(groups: Sequence[tuple[tuple[str, ...], int, int | None]], tokens: int | None = None) -> Part:
    sizes = [size for _, _, size in groups]
    known = None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)
    return Part("", sum(texts for _, texts, _ in groups), known, tokens)


def _parts(
    groups: Sequence[tuple[tuple[str, ...], int, int | None]], tokens: Mapping[str, Mapping[str, int]]
) -> dict[str, tuple[Part, ...]]:
    """The kept texts by each column; a column that the table does not have gives no parts."""
    found: dict[str, tuple[Part, ...]] = {}
    for place, column in enumerate(_COLUMNS):
        names = sorted({key[place] for key, _, _ in groups})
        counted = tokens.get(column, {})
        parts = [
            Part(name, whole.texts, whole.bytes, counted.get(name) if counted else None)
            for name in names
            for whole in [_whole([group for group in groups if group[0][place] == name])]
        ]
        said = [] if names == [""] and column != "licence" else parts
        found[column] = tuple(sorted(said, key=lambda part: (-(part.bytes or 0), -part.texts, part.name)))
    return found
