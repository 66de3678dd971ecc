"""What licensed text brought into a model, read from records: by rights holder and contract, and the contracts' dates.

Documents come from the table of a dataset, tokens from the index of the shards, passes from the mixture of each
pre-training run; conversations from their own lines and the tuning step that read them.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from hanse.errors import InputError
from hanse.release.shares.payout import Claim, Terms
from hanse.store import record as records
from hanse.store.documents import TABLE
from hanse.store.stage import Artifact

INDEX, MIXTURE, CONVERSATIONS = "index.parquet", "mixture.json", "train.jsonl"
_Key = tuple[str, str]  # rights holder and contract


@dataclass(frozen=True)
class Licensed:
    """A claim, and where it comes from.

    Attributes:
        sources: names of the recipe's sources, sorted.
        tokens: of the text, read once; None where no index says.
        start, expiry: of the contract, ISO 8601, as declared; "" where not, both days where two sources disagree.
        backed_by: the records that the figures were read from.
    """

    claim: Claim
    sources: tuple[str, ...]
    tokens: int | None
    start: str
    expiry: str
    backed_by: str


@dataclass(frozen=True)
class Shares:
    """What was licensed, and what it is measured against.

    Attributes:
        licensed: by rights holder and contract, sorted.
        supply: tokens of training text by language, of all sources.
        trained: tokens that all training steps read together; None where one did not note it.
    """

    licensed: tuple[Licensed, ...]
    supply: Mapping[str, int]
    trained: int | None

    @property
    def claims(self) -> list[Claim]:
        """What a payout rule looks at."""
        return [each.claim for each in self.licensed]


@dataclass(frozen=True)
class Concern:
    """Something about a contract's dates.

    Attributes:
        kind: `expired` before the release was made, `not-in-force` while training, `ends-soon`, `no-expiry`.
        what: a sentence.
        source: the record that says so.
    """

    kind: Literal["expired", "not-in-force", "ends-soon", "no-expiry"]
    contract: str
    what: str
    source: str


def shares(ancestors: Sequence[Artifact]) -> Shares:
    """What licensed text brought in.

    Args:
        ancestors: of a release.

    Raises:
        InputError: a licensed source without the table or the lines that say whose text it is.
    """
    entries: defaultdict[_Key, list[_Part]] = defaultdict(list)
    for artifact, number, declared in _licensed_sources(ancestors):
        parts = _of_dataset if artifact.kind == "dataset" else _of_conversations
        for part in parts(artifact, number, declared, ancestors):
            entries[part.holder, str(declared.get("contract") or "")].append(part)
    totals = [artifact.facts.get("tokens") for artifact in ancestors if artifact.kind == "model"]
    trained = sum(int(tokens) for tokens in totals if tokens is not None) if None not in totals else None
    licensed = tuple(_joined(key, entries[key]) for key in sorted(entries))
    return Shares(licensed, _supply(ancestors), trained)


def concerns(ancestors: Sequence[Artifact], *, made: str, warn_days: int = Terms.warn_days) -> list[Concern]:
    """What the dates of the contracts give reason to say, by the records' days and never by the clock.

    Args:
        ancestors: of a release.
        made: when its newest ancestor was finished, RFC 3339.
        warn_days: how far ahead to look.
    """
    found: list[Concern] = []
    for artifact, number, declared in _licensed_sources(ancestors):
        begun = [_started(model) for model in _trained_on(artifact, ancestors)]
        place = f"{artifact.ref} step.json source.{number}"
        found += _concerns(declared, min(begun, default=None), _day(made), warn_days, place)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Part:
    """What one source gave under one rights holder."""

    holder: str
    source: str
    language: str
    documents: int
    bytes: int
    tokens: int | None
    trained: Fraction | None
    start: str
    expiry: str
    backed_by: str


def _licensed_sources(ancestors: Iterable[Artifact]) -> Iterator[tuple[Artifact, int, Mapping[str, Any]]]:
    for artifact in ancestors:
        if artifact.kind in ("dataset", "conversations"):
            for number, declared in enumerate(records.definition_of(artifact.record).get("source", ())):
                if declared.get("obtained") == "licensed":
                    yield artifact, number, declared


def _of_dataset(
    dataset: Artifact, number: int, declared: Mapping[str, Any], ancestors: Sequence[Artifact]
) -> Iterator[_Part]:
    name = str(declared["name"])
    models = _trained_on(dataset, ancestors)
    shards = {made.ref: made for model in models for made in _inputs(model, ancestors) if made.kind == "shards"}
    groups = _groups(dataset, name, next(iter(shards.values()), None))
    for (language, holder), (documents, size, tokens) in sorted(groups.items()):
        trained, backed = None, [f"{dataset.ref} {TABLE}", *(f"{ref} {INDEX}" for ref in shards)]
        if tokens is not None:
            passes = [_passes(model, language, name) for model in models]
            backed += [f"{model.ref} {MIXTURE}" for model in models]
            trained = None if None in passes else tokens * sum((each for each in passes if each), Fraction(0))
        yield _Part(
            holder or str(declared.get("rights_holder") or ""), name, language, documents, size, tokens, trained,
            str(declared.get("contract_start") or ""), str(declared.get("contract_expiry") or ""),
            "; ".join([f"{dataset.ref} step.json source.{number}", *backed]),
        )  # fmt: skip


def _groups(
    dataset: Artifact, source: str, shards: Artifact | None
) -> dict[tuple[str, str], tuple[int, int, int | None]]:
    """Documents, bytes and tokens of one source that training could read, by language and rights holder."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = dataset.path / TABLE
    if not path.is_file():
        raise InputError(f"{dataset.ref}: has no {TABLE}, so nobody can say whose text '{source}' is.")
    with pq.ParquetFile(path) as file:
        known = set(file.schema_arrow.names)
    wanted = [name for name in ("id", "language", "rights_holder", "bytes", "split", "drop_reason") if name in known]
    table = pq.read_table(path, columns=wanted, filters=[("source", "=", source)])
    if "split" in known:
        table = table.filter(pc.fill_null(pc.equal(table["split"], "train"), False))
    elif "drop_reason" in known:
        table = table.filter(pc.equal(pc.fill_null(pc.list_value_length(table["drop_reason"]), 0), 0))
    columns = {name: table[name] for name in ("id", "bytes")}
    for name in ("language", "rights_holder"):
        column = table[name] if name in known else pa.nulls(len(table), pa.string())
        columns[name] = pc.fill_null(column, "")
    table = pa.table(columns)
    has_index = shards is not None and (shards.path / INDEX).is_file()
    if has_index and shards is not None:
        index = pq.read_table(shards.path / INDEX, columns=["id", "tokens"], filters=[("split", "=", "train")])
        table = table.join(index, keys="id", join_type="left outer")
    sums = [("bytes", "count"), ("bytes", "sum"), *([("tokens", "sum")] if has_index else [])]
    found = table.group_by(["language", "rights_holder"]).aggregate(sums).to_pylist()
    return {
        (row["language"], row["rights_holder"]): (row["bytes_count"], row["bytes_sum"], row.get("tokens_sum"))
        for row in found
    }


def _of_conversations(
    talk: Artifact, number: int, declared: Mapping[str, Any], ancestors: Sequence[Artifact]
) -> Iterator[_Part]:
    name = str(declared["name"])
    path = talk.path / CONVERSATIONS
    if not path.is_file():
        raise InputError(f"{talk.ref}: has no {CONVERSATIONS}, so nobody can say whose text '{name}' is.")
    texts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row.get("source") == name:
                key = str(row.get("language") or ""), str(row.get("rights_holder") or "")
                texts[key] += 1
                sizes[key] += sum(len(str(each.get("content") or "").encode("utf-8")) for each in row["messages"])
    tuned = [
        model for model in _trained_on(talk, ancestors)
        if records.definition_of(model.record).get("tune", {}).get("source") == name
    ]  # fmt: skip
    noted = [model.facts.get("tokens") for model in tuned]
    tokens = None if None in noted else sum(int(each) for each in noted if each is not None)
    backed = [f"{talk.ref} step.json source.{number}", f"{talk.ref} {CONVERSATIONS}"]
    backed += [f"{model.ref} step.json tokens" for model in tuned]
    for language, holder in sorted(texts):
        part = None if tokens is None else Fraction(tokens * sizes[language, holder], max(1, sizes.total()))
        yield _Part(
            holder or str(declared.get("rights_holder") or ""), name, language, texts[language, holder],
            sizes[language, holder], None, part, str(declared.get("contract_start") or ""),
            str(declared.get("contract_expiry") or ""), "; ".join(backed),
        )  # fmt: skip


def _joined(key: _Key, parts: Sequence[_Part]) -> Licensed:
    """One claim from the parts that share rights holder and contract."""
    is_known = all(part.trained is not None for part in parts)
    by_language: defaultdict[str, Fraction] = defaultdict(Fraction)
    for part in parts:
        by_language[part.language] += part.trained or 0
    claim = Claim(
        *key,
        documents=sum(part.documents for part in parts),
        bytes=sum(part.bytes for part in parts),
        trained=sum(by_language.values(), Fraction(0)) if is_known else None,
        trained_by_language=dict(by_language) if is_known else {},
    )
    tokens = [part.tokens for part in parts]
    backed = dict.fromkeys(place for part in parts for place in part.backed_by.split("; "))
    return Licensed(
        claim,
        tuple(sorted({part.source for part in parts})),
        None if None in tokens else sum(each for each in tokens if each is not None),
        ", ".join(sorted({part.start for part in parts} - {""})),
        ", ".join(sorted({part.expiry for part in parts} - {""})),
        "; ".join(backed),
    )


def _passes(model: Artifact, language: str, source: str) -> Fraction | None:
    """How often a run went through a stream, over all its stages; None where it kept no mixture."""
    rows = _mixture(model)
    if rows is None:
        return None
    # Licences of one stream share its passes, so each stage counts once.
    of_stage = {
        r["stage"]: Fraction(str(r["epochs"])) for r in rows if (r["language"], r["source"]) == (language, source)
    }
    return sum(of_stage.values(), Fraction(0))


def _supply(ancestors: Sequence[Artifact]) -> dict[str, int]:
    """Tokens of training text by language; of several runs over the same shards, once."""
    found: dict[tuple[str, ...], dict[str, int]] = {}
    for model in ancestors:
        rows = _mixture(model) if model.kind == "model" else None
        if rows:
            first = min(row["stage"] for row in rows)
            supply: Counter[str] = Counter()
            for row in rows:
                supply[row["language"]] += row["tokens"] if row["stage"] == first else 0
            read_from = tuple(each.ref for each in _inputs(model, ancestors) if each.kind == "shards")
            found[read_from] = dict(supply)
    total: Counter[str] = Counter()
    for each in found.values():
        total.update(each)
    return dict(sorted(total.items()))


def _mixture(model: Artifact) -> list[dict[str, Any]] | None:
    path = model.path / MIXTURE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _trained_on(text: Artifact, ancestors: Sequence[Artifact]) -> list[Artifact]:
    """The training steps that read a dataset, through its shards, or conversations."""
    found = []
    for model in ancestors:
        if model.kind == "model":
            read = _inputs(model, ancestors)
            behind = [each for made in read if made.kind == "shards" for each in _inputs(made, ancestors)]
            if text in [each for each in (*read, *behind) if each.kind == text.kind]:
                found.append(model)
    return sorted(found, key=lambda model: (_started(model), model.ref))


def _inputs(artifact: Artifact, ancestors: Sequence[Artifact]) -> list[Artifact]:
    named = {each.ref for each in records.inputs_of(artifact.record)}
    return [each for each in ancestors if each.ref in named]


def _started(artifact: Artifact) -> datetime.date:
    return _day(artifact.record["predicate"]["runDetails"]["metadata"]["startedOn"])


def _day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text[:10])


def _concerns(
    declared: Mapping[str, Any], begun: datetime.date | None, made: datetime.date, warn_days: int, place: str
) -> Iterator[Concern]:
    contract = str(declared.get("contract") or "not recorded")
    start, expiry = declared.get("contract_start"), declared.get("contract_expiry")
    if start and begun and _day(start) > begun:
        what = f"contract {contract} begins on {start}, but training began on {begun}"
        yield Concern("not-in-force", contract, what, f"{place}.contract_start")
    if not expiry:
        yield Concern("no-expiry", contract, f"contract {contract}: its last day is not recorded", place)
        return
    last, where = _day(expiry), f"{place}.contract_expiry"
    if begun and last < begun:
        what = f"contract {contract} ended on {expiry}, before training began on {begun}"
        yield Concern("not-in-force", contract, what, where)
    if last < made:
        what = f"contract {contract} ended on {expiry}, before this release was made on {made}"
        yield Concern("expired", contract, what, where)
    elif (last - made).days <= warn_days:
        what = f"contract {contract} ends on {expiry}, {(last - made).days} days after this release was made"
        yield Concern("ends-soon", contract, what, where)
