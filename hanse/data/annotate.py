"""What can be said about a document by itself: rights, size, language, personal data, quality, contamination.

Nothing is dropped here. Each document gets its reasons, and the policy of the recipe has the last word in `select.py`.
All work is done on batches; per document there is little left but bookkeeping.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hanse.data import contamination, dedup, quality
from hanse.data.contamination import Items
from hanse.data.language_id import SHORT_CHARACTERS, LanguageIdentifier, agrees
from hanse.data.pii.detect import Detector
from hanse.data.quality.classifier import MIN_CHARACTERS, Classifier
from hanse.data.rights import licence as licences
from hanse.data.rights import public_domain, signals
from hanse.data.rights.evidence import Evidence
from hanse.data.rights.policy import Case, Policy
from hanse.data.rights.snapshots import Snapshots
from hanse.data.schema import INGEST
from hanse.errors import InputError
from hanse.recipe import CURATE_PATHS

if TYPE_CHECKING:
    from hanse.recipe import Curate, Source


_END_OF_TIME = "9999-12-31"  # without a day in the recipe, none lies in the future


class Annotator:
    """Adds the ANNOTATIONS columns to batches of rows.

    Args:
        sources: the recipe's sources of running text.
        settings: the recipe's [curate].
        languages: codes that the recipe asks for.
        crawled: site files that the sources themselves hold, see `hanse.data.sources.crawled`.

    Raises:
        InputError: a policy, a folder of site files, or a file of evaluation items that cannot be read.
    """

    def __init__(
        self, sources: Sequence[Source], settings: Curate, languages: tuple[str, ...], crawled: Path | None = None
    ) -> None:
        self._sources, self._settings = tuple(sources), settings
        self._languages = frozenset(languages)
        self._identifier = LanguageIdentifier(languages) if settings.identify_language else None
        self._detector = Detector(languages) if settings.pii != "keep" else None
        self._items = Items.read([Path(path) for path in settings.contamination]) if settings.contamination else None
        self._policy = _policy(settings)
        self._snapshots = [_snapshots(settings)] if settings.site_files else []
        if crawled is not None:
            self._snapshots.append(Snapshots(crawled, day=settings.day or _END_OF_TIME))
        self._classifier = Classifier.load(Path(settings.quality_model)) if settings.quality_model else None

    def table(
        self, rows: list[dict[str, Any]], source_index: int, ordinal: int, evidence: dict[str, Evidence]
    ) -> pa.Table:
        """Rows of a reader as a table of the INGEST schema.

        Args:
            rows: at least one, as `hanse.data.sources.read_file` yields them.
            source_index: of the [[source]].
            ordinal: of the first row.
            evidence: what was found, by id; this batch's is added.
        """
        settings = self._settings
        is_own = self._sources[source_index].kind == "atlas"
        texts = [row["text"] for row in rows]
        array = pa.array(texts, pa.string())
        reasons: list[list[str]] = [[] for _ in rows]
        for number, row in enumerate(rows):
            row["ordinal"] = ordinal + number
            self._judge_rights(row, reasons[number], source_index, evidence)
            row["characters"] = len(texts[number])
            if row["characters"] < settings.min_characters and not is_own:
                reasons[number].append("too-short")
            if row["characters"] > settings.max_characters:
                reasons[number].append("too-long")
        identified: Sequence[tuple[str | None, float | None]] = [(None, None)] * len(rows)
        if self._identifier is not None and not is_own:
            identified = self._identifier.identify(texts)
        for row, (lang, score), why in zip(rows, identified, reasons, strict=True):
            row["lang"], row["lang_score"] = lang, score
            why += self._settle_language(row)
        languages = [row["language"] for row in rows]
        columns = {} if is_own else self._judge_text(texts, array, languages, reasons)
        if self._items is not None:
            columns["contamination"] = self._look_for_items(array, reasons)
        if settings.near_duplicates:
            columns |= dedup.bands(array, _are_comparable(texts, reasons))
        columns |= {"text": array, "drop_reason": reasons}
        return pa.table(
            [_column(columns[f.name] if f.name in columns else [row.get(f.name) for row in rows], f) for f in INGEST],
            schema=INGEST,
        )

    def _judge_text(
        self, texts: list[str], array: pa.Array, languages: Sequence[str | None], reasons: list[list[str]]
    ) -> dict[str, Any]:
        """The columns of personal data and quality; adds to the reasons."""
        settings = self._settings
        columns: dict[str, Any] = {}
        if self._detector is not None:
            found = self._detector.find_batch(texts, languages)
            columns["pii"] = [[asdict(finding) for finding in findings] for findings in found]
        if settings.quality:
            features = quality.measure(array, languages)
            columns["quality"] = pa.StructArray.from_arrays(
                [pa.array(features[name], pa.float32()) for name in quality.FEATURES], list(quality.FEATURES)
            )
            for why, more in zip(reasons, quality.reasons(features, languages), strict=True):
                why += more
        if self._classifier is not None:
            scores = columns["quality_score"] = self._classifier.score(array)
            for number in np.flatnonzero(scores < settings.min_quality).tolist():
                if len(texts[number]) >= MIN_CHARACTERS:
                    reasons[number].append("quality-score")
        return columns

    def _look_for_items(self, array: pa.Array, reasons: list[list[str]]) -> list[list[dict[str, Any]]]:
        assert self._items is not None
        hits = self._items.scan(array)
        if self._settings.on_contamination == "drop":
            for why, more in zip(reasons, contamination.reasons(hits), strict=True):
                why += more
        return [[asdict(hit) for hit in found] for found in hits]

    def _judge_rights(
        self, row: dict[str, Any], reasons: list[str], source_index: int, evidence: dict[str, Evidence]
    ) -> None:
        settings, source = self._settings, self._sources[source_index]
        licence = row["licence"] = licences.canonical(row["licence"], settings.licences)
        row["rank"] = dedup.rank(duties=licences.duties(licence), source_index=source_index, ordinal=row["ordinal"])
        found = list(row["evidence"])
        if row["url"]:
            found += [each for snapshots in self._snapshots for each in snapshots.evidence(row["url"])]
        if row["reservation"] != "unknown":
            found += signals.from_declared(row["reservation"], seen=row["retrieved"] or "")
        case = Case(
            basis=row["licence_basis"],
            is_licence_allowed=licences.is_allowed(licence, settings.licences),
            jurisdiction=row["jurisdiction"] or "",
            day=settings.day,
            contract_start=_day(source.contract_start),
            contract_end=_day(source.contract_expiry),
            public_domain=self._age(row),
        )
        decision = self._policy.decide(case, found)
        row["reservation"] = decision.reservation
        row["evidence"] = [each.id for each in found]
        evidence.update(zip(row["evidence"], found, strict=True))
        row["flags"] += decision.flags
        reasons += decision.reasons
        if problem := licences.problem(licence, settings.licences):
            reasons.append(problem)

    def _age(self, row: dict[str, Any]) -> Any:
        """Whether the author died long enough ago, where there is a year to reckon from."""
        if not self._settings.day:
            return ""
        return public_domain.check(
            author=row["author"], year=row["year"], author_died=row["author_died"],
            reference_year=int(self._settings.day[:4]), jurisdiction=row["jurisdiction"] or "EU",
        ).outcome  # fmt: skip

    def _settle_language(self, row: dict[str, Any]) -> list[str]:
        """Settle the language; a declared one stands unless a long enough text clearly speaks against it."""
        identified, score = row["lang"], row["lang_score"]
        is_sure = identified is not None and score >= self._settings.min_language_score
        if row["language"] is None:
            if not is_sure:
                return ["language-unknown"]
            row["language"] = identified
        reasons = []
        if row["language"] not in self._languages:
            reasons.append("language-not-asked-for")
        if identified is not None and row["language"] != identified:
            row["flags"].append("language-doubtful")
            if is_sure and row["characters"] >= SHORT_CHARACTERS and not agrees(row["language"], identified):
                reasons.append("language-mismatch")
        return reasons


def identity(settings: Curate) -> dict[str, Any]:
    """What defines curation: the settings, and the content of the files they name, wherever those lie."""
    absent = () if settings.canaries else ("canaries", "canary_repeats")
    given = settings.model_dump(mode="json", exclude={"engine", *absent, *CURATE_PATHS})
    key = settings.pii_key and hashlib.sha256(b"hanse pii key\0" + read_key(settings)).hexdigest()[:16]
    return {
        **given,
        "policy": _policy(settings).digest,
        "site_files": _snapshots(settings).digest() if settings.site_files else "",
        "pii_key": key,
        "quality_model": _file_digest(settings.quality_model) if settings.quality_model else "",
        "contamination": [_file_digest(path) for path in settings.contamination],
    }


def read_key(settings: Curate) -> bytes:
    """The key of pseudonyms; empty where none is named. Raises InputError if the file cannot be read."""
    return _content(settings.pii_key) if settings.pii_key else b""


def _are_comparable(texts: Sequence[str], reasons: Sequence[Sequence[str]]) -> np.ndarray:
    """Which texts take part in the search for near duplicates, bool."""
    return np.array(
        [not why and len(text) >= dedup.NEAR_CHARACTERS for why, text in zip(reasons, texts, strict=True)], bool
    )


def _policy(settings: Curate) -> Policy:
    return Policy.load(Path(settings.policy) if settings.policy else None, on_unknown=settings.on_unknown_reservation)


def _snapshots(settings: Curate) -> Snapshots:
    return Snapshots.load(Path(settings.site_files), day=settings.day)


def _day(date: datetime.date | None) -> str:
    return date.isoformat() if date else ""


def _file_digest(path: str) -> str:
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"[curate] {path}: cannot be read ({error.strerror}).") from None


def _column(values: Any, field: pa.Field) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)
