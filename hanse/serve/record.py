"""What a served model is made of, as the page shows it: read back from the release's own records and papers.

A pure function of the folder. What nothing in the folder backs is None, which the page shows as "not recorded".
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanse.languages import LANGUAGES
from hanse.release import verifier
from hanse.release.attribution import flags
from hanse.release.card import total
from hanse.store import check
from hanse.store.digest import RECORD, SUMS, parse_sums
from hanse.store.documents import count_documents
from hanse.trace.index import beside

#: The papers whose text the page can show, and the most bytes of one; a longer one is only named.
READABLE = ("README.md", "ATTRIBUTION.md", "LICENSE")
LARGEST_PAPER_BYTES = 256 * 1024
#: A foreign record is read whole; larger than this, it is an accident.
LARGEST_RECORD_BYTES = 16 * 1024 * 1024
Json = dict[str, Any]


def record(release: Path | None, report: check.Report | verifier.Report | None = None) -> Json:
    """Languages, sources, licences, papers, size, training and signature of the model in a folder, as JSON values.

    Reads every byte of the folder to check it, so call it once, and in a thread.

    Args:
        release: the folder that is served; None when nothing is known about the model.
        report: the check of that folder, where it was made already.

    Returns:
        The members `release`, `model`, `training`, `languages`, `sources`, `licences`, `evaluation`, `papers`,
        `ancestors`, `signature`, `generation` and `trace`; see `docs/page.md`. Bytes, tokens, seconds, Wh and FLOP are
        numbers; shares lie between 0 and 1; None stands for what is not recorded.
    """
    folder = release if release is not None and release.is_dir() else None
    records = _records(folder) if folder else {}
    own = records.pop(RECORD, {})
    definition = _definition(own)
    settings = _mapping(definition.get("release"))
    credits = _credits(folder)
    found = {
        "release": {
            "name": _first_subject(own),
            "title": settings.get("title") or definition.get("recipe_name") or None,
            "description": definition.get("description") or None,
            "licence": settings.get("licence"),
            "contact": settings.get("contact") or None,
            "made": _metadata(own).get("finishedOn"),
        },
        "model": _model(folder, own, records),
        "training": _training(own, records),
        "languages": _languages(folder, definition),
        "sources": _sources(credits, records),
        "licences": _licences(credits),
        "evaluation": _evaluation(folder),
        "papers": _papers(folder),
        "ancestors": [_ancestor(records[path]) for path in sorted(records)],
        "signature": _signature(folder, report),
        "generation": _generation(folder),
        "trace": {"index": bool(beside(folder))},
    }
    return _finite(found)


# --------------------------------------------------------------------------- the model and how it was trained


def _model(folder: Path | None, own: Json, records: Mapping[str, Json]) -> Json:
    config = _read_json(folder, "config.json")
    facts = [_facts(own), *(_facts(each) for each in records.values())]
    weights = sorted(folder.glob("*.safetensors")) if folder else []
    return {
        "family": config.get("model_type"),
        "layers": config.get("num_hidden_layers"),
        "parameters": _largest(facts, "parameters"),
        "active_parameters": _largest(facts, "active_parameters"),
        "context": config.get("max_position_embeddings"),
        "vocabulary": config.get("vocab_size"),
        "bytes": sum(path.stat().st_size for path in weights) or None,
    }


def _training(own: Json, records: Mapping[str, Json]) -> Json:
    """Sums over the training steps on record; None where one of them did not note the figure."""
    steps = [each for each in (own, *records.values()) if _first_subject(each, "").startswith("model/")]
    facts = [_facts(each) for each in steps]
    machines = {_mapping(each.get("runtime")).get("device_name") for each in facts}
    sums = {name: total(facts, name) for name in ("tokens", "flop", "energy_wh", "seconds")}
    return {**sums, "steps": len(facts), "machines": sorted(name for name in machines if isinstance(name, str))}


def _generation(folder: Path | None) -> Json:
    """How the release wants to be sampled, for the page to begin with."""
    found = _read_json(folder, "generation_config.json")
    if found.get("do_sample") is False:
        return {"temperature": 0.0}
    return {key: found[key] for key in ("temperature", "top_p", "top_k") if isinstance(found.get(key), int | float)}


# --------------------------------------------------------------------------- the texts


def _languages(folder: Path | None, definition: Mapping[str, Any]) -> list[Json]:
    """Documents and bytes of each language by the document tables, most bytes first; else the release's list."""
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for table in sorted((folder / verifier.PROVENANCE).glob("documents*.parquet")) if folder else ():
        try:
            groups = count_documents(table, ("language",))
        except (OSError, ValueError, LookupError):  # pyarrow's errors are of these kinds
            return [_language(code, None, None, None) for code in _codes(definition)]
        for group in groups:
            documents[group.key[0]] += group.documents
            sizes[group.key[0]] += group.bytes
    if not any(documents):  # no table, or one without languages
        return [_language(code, None, None, None) for code in _codes(definition)]
    whole = sum(sizes.values())
    ordered = sorted(documents, key=lambda code: (-sizes[code], code))
    return [_language(code, documents[code], sizes[code], sizes[code] / whole if whole else None) for code in ordered]


def _language(code: str, documents: int | None, size: int | None, share: float | None) -> Json:
    known = LANGUAGES.get(code)
    names = {"name": known.name if known else code or None, "autonym": known.autonym if known else code or None}
    return {"code": code or None, **names, "documents": documents, "bytes": size, "share": share}


def _codes(definition: Mapping[str, Any]) -> list[str]:
    found = definition.get("languages")
    return [str(code) for code in found] if isinstance(found, list) else []


def _credits(folder: Path | None) -> list[Json]:
    path = folder / "ATTRIBUTION.md" if folder else None
    if path is None or not path.is_file() or path.stat().st_size > LARGEST_RECORD_BYTES:
        return []
    return list(read_attribution(path.read_text(encoding="utf-8", errors="replace")))


_HOLDER = re.compile(r"Rights holder: (.*) \(([\d,]+) (documents|conversations), ([\d,]+) bytes\)")


def read_attribution(text: str) -> Iterator[Json]:
    """The totals in an `ATTRIBUTION.md` that `hanse.release.attribution` wrote: one for each rights holder and kind.

    Yields:
        `licence`, `source`, `rights_holder` (None where not recorded), `kind`, `texts` and `bytes`.
    """
    licence = source = ""
    for line in text.splitlines():
        if line.startswith("### "):
            source = _unescape(line[4:])
        elif line.startswith("## "):
            licence = _unescape(line[3:])
        elif match := _HOLDER.fullmatch(line):
            holder = None if match[1] == "not recorded" else _unescape(match[1])
            counts = {"texts": int(match[2].replace(",", "")), "bytes": int(match[4].replace(",", ""))}
            yield {"licence": licence, "source": source, "rights_holder": holder, "kind": match[3], **counts}


def _sources(credits: Sequence[Json], records: Mapping[str, Json]) -> list[Json]:
    """Each source under each licence: texts by kind, bytes, rights holders, how it was obtained and made."""
    declared = {
        str(each.get("name")): each
        for found in records.values()
        for each in _definition(found).get("source") or ()
        if isinstance(each, Mapping)
    }
    groups: dict[tuple[str, str], list[Json]] = {}
    for credit in credits:
        groups.setdefault((credit["source"], credit["licence"]), []).append(credit)
    found = []
    for (name, licence), group in groups.items():
        about = declared.get(name, {})
        holders = dict.fromkeys(each["rights_holder"] for each in group if each["rights_holder"])
        counts = {kind: _texts(group, kind) for kind in ("documents", "conversations")}
        how = {key: about.get(key) or None for key in ("kind", "obtained", "licence_basis", "url")}
        made_from = [
            {key: each.get(key) for key in ("name", "version", "licence", "purpose")}
            for each in about.get("generated_from") or ()
            if isinstance(each, Mapping)
        ]
        size = sum(each["bytes"] for each in group)
        found.append(
            {
                "name": name,
                "licence": licence,
                "asks": flags(licence),
                **counts,
                "bytes": size,
                "rights_holders": list(holders),
                **how,
                "generated_from": made_from,
            }
        )
    return sorted(found, key=lambda each: (-each["bytes"], each["name"], each["licence"]))


def _licences(credits: Sequence[Json]) -> list[Json]:
    found = []
    for licence in sorted({each["licence"] for each in credits}):
        group = [each for each in credits if each["licence"] == licence]
        counts = {kind: _texts(group, kind) for kind in ("documents", "conversations")}
        found.append(
            {"licence": licence, "asks": flags(licence), **counts, "bytes": sum(each["bytes"] for each in group)}
        )
    return sorted(found, key=lambda each: (-each["bytes"], each["licence"]))


def _texts(group: Sequence[Json], kind: str) -> int:
    return sum(each["texts"] for each in group if each["kind"] == kind)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


# --------------------------------------------------------------------------- papers, ancestry, signature


def _evaluation(folder: Path | None) -> list[Json]:
    """The mean rows of the scores: metric, value, interval and number of items."""
    try:
        rows = json.loads((folder / "evaluation" / "scores.json").read_bytes()) if folder else []
    except (OSError, ValueError):
        return []
    means = [row for row in rows if isinstance(row, Mapping) and row.get("language") == "mean"]
    keys = ("metric", "task", "value", "low", "high", "n")
    return [{key: row.get(key) for key in keys} for row in means if row.get("task") == "all"]


def _papers(folder: Path | None) -> list[Json]:
    """The files of the release with bytes and SHA-256; the text of those that people read."""
    if folder is None:
        return []
    try:
        digests = parse_sums((folder / SUMS).read_text(encoding="utf-8"))
    except Exception:  # missing or malformed: the signature says so; here nothing is on record
        digests = {}
    names = [*(name for name in READABLE if name in digests), *(name for name in digests if name not in READABLE)]
    beside = [name for name in (RECORD, SUMS, verifier.SIGNATURE) if (folder / name).is_file()]
    found = []
    for name in [*names, *beside]:
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        is_shown = name in READABLE and size is not None and size <= LARGEST_PAPER_BYTES
        text = path.read_text(encoding="utf-8", errors="replace") if is_shown else None
        found.append({"name": name, "bytes": size, "sha256": digests.get(name), "text": text})
    return found


def _ancestor(found: Json) -> Json:
    subject = found["subject"][0]
    return {"name": subject["name"], "sha256": subject["digest"]["sha256"], "made": _metadata(found).get("finishedOn")}


def _signature(folder: Path | None, report: check.Report | verifier.Report | None) -> Json:
    """`state` is holds, broken, unsigned or None; with the fingerprint of the key, the problems and the files read."""
    empty: Json = {"state": None, "fingerprint": None, "problems": [], "notes": []}
    if folder is None:
        return empty
    if not (folder / verifier.SIGNATURE).is_file():
        # A model folder of a store has sums and a record but nobody vouches for it; a foreign one has neither.
        known = (folder / SUMS).is_file() or (folder / RECORD).is_file()
        problems = [str(problem) for problem in check.check_folder(folder)] if known else []
        return {**empty, "state": "broken" if problems else "unsigned", "problems": problems}
    found = report if report is not None else verifier.verify(folder)
    try:
        key = verifier.fingerprint(verifier.load_public_key((folder / verifier.PUBLIC_KEY).read_bytes()))
    except (OSError, verifier.Malformed):
        key = None
    return {
        "state": "broken" if found.problems else "holds",
        "fingerprint": key,
        "problems": [str(problem) for problem in found.problems],
        "notes": list(found.notes),
    }


# --------------------------------------------------------------------------- records, which others may have written


def _records(folder: Path) -> dict[str, Json]:
    """File name -> record, of the folder's own and of every ancestor; what is no record is left out."""
    found: dict[str, Json] = {}
    for path in (folder / RECORD, *sorted((folder / verifier.PROVENANCE).glob("*.json"))):
        try:
            value: Any = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_RECORD_BYTES else None
            value["subject"][0]["name"], value["subject"][0]["digest"]["sha256"]
            value["predicate"]["buildDefinition"], value["predicate"]["runDetails"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        found[path.name] = value
    return found


def _first_subject(found: Json, default: str | None = None) -> Any:
    return found["subject"][0]["name"] if found else default


def _definition(found: Json) -> Mapping[str, Any]:
    return _mapping(found["predicate"]["buildDefinition"].get("externalParameters")) if found else {}


def _metadata(found: Json) -> Mapping[str, Any]:
    return _mapping(found["predicate"]["runDetails"].get("metadata")) if found else {}


def _facts(found: Json) -> Mapping[str, Any]:
    return _mapping(_metadata(found).get("hanse_facts"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _largest(facts: Sequence[Mapping[str, Any]], name: str) -> int | None:
    values = [each[name] for each in facts if isinstance(each.get(name), int)]
    return max(values, default=None)


def _finite(value: Any) -> Any:
    """The value with None for what JSON cannot write: no number, or an infinite one."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_json(folder: Path | None, name: str) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads((folder / name).read_bytes())) if folder else {}
    except (OSError, ValueError):
        return {}
