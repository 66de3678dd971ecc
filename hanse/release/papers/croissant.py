"""A dataset for machines: Croissant 1.1 with its vocabulary for responsible AI, PROV-O for where it comes from.

Written as a dictionary, because the library's builder still says 1.0 and has no words for provenance and usage. Specs:
mlcommons.org/croissant/1.1 and mlcommons.org/croissant/RAI/1.0. Paths are relative to the dataset's own folder, so a
reader that shall open the records needs the file laid there; the sums of the files hold wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanse.release.ledger import Ledger, SourceRecord
from hanse.release.papers.bill import unknowns
from hanse.release.papers.curation import (
    biases,
    citation,
    collected,
    personal_data,
    preprocessing,
    summary,
    used_for,
)
from hanse.release.papers.dataset_facts import (
    NO_LICENCE,
    DatasetFacts,
    Part,
    duties,
    licence_addresses,
    percent,
    web_address,
)
from hanse.store.documents import TABLE

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
TEXTS = "text/*.parquet"
_PARQUET, _JSON_LINES, _JSON = "application/x-parquet", "application/jsonlines", "application/json"
_FORMATS = {"parquet": _PARQUET, "jsonl": _JSON_LINES, "json": _JSON}
#: How a recipe says a source was obtained, in the words of Croissant RAI 1.0.
_COLLECTION_TYPES = {
    "public-dataset": "Secondary Data Analysis",
    "licensed": "Secondary Data Analysis",
    "crawl": "Web Scraping",
    "user": "User-Generated Content Data",
    "synthetic": "Others",
    "other": "Others",
}
#: The context of Croissant 1.1, and PROV-O.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(ledger: Ledger, facts: DatasetFacts) -> dict[str, Any]:
    """The JSON-LD of one dataset (or of conversations).

    Croissant also wants `url` and `datePublished`: both are left out, for no record knows where and when somebody will
    publish. `dateCreated` is the day the dataset was made.
    """
    publisher = ledger.answer("provider.name").value
    declared = [{"@type": "sc:Organization", "name": publisher}] if isinstance(publisher, str) else []
    found = {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": f"{facts.artifact.kind} {facts.artifact.name}",
        "version": facts.artifact.version,
        "description": summary(facts),
        "identifier": f"sha256:{facts.artifact.digest}",
        "dateCreated": facts.made[:10],
        "inLanguage": [part.name for part in facts.languages if part.name],
        "keywords": ["language model", "training data", *(["conversations"] if _is_talk(facts) else [])],
        "creator": declared,
        "publisher": declared,
        "citeAs": citation(facts),
        "license": _licences(facts),
        "usageInfo": list(_usage(facts)),
        "isLiveDataset": False,
        "rai:dataCollection": " ".join(collected(each) for each in facts.declared),
        "rai:dataCollectionType": sorted(
            {_COLLECTION_TYPES[kind] for each in facts.declared if (kind := _obtained(each)) in _COLLECTION_TYPES}
        ),
        "rai:dataPreprocessingProtocol": preprocessing(facts),
        "rai:dataBiases": biases(facts),
        "rai:dataLimitations": unknowns(facts),
        "rai:dataUseCases": used_for(ledger, facts),
        "rai:personalSensitiveInformation": personal_data(facts),
        "prov:wasDerivedFrom": [_source(each) for each in facts.declared],
        "prov:wasGeneratedBy": _step(facts),
        "distribution": [*_file_objects(facts), *_file_sets(facts)],
        "recordSet": [*_row_sets(facts), *_count_sets(facts)],
    }
    return {key: value for key, value in found.items() if value not in ("", [], None)}


def _is_talk(facts: DatasetFacts) -> bool:
    return facts.texts_are == "conversations"


def _obtained(source: SourceRecord) -> str:
    return str(source.declared.get("obtained", ""))


def _licences(facts: DatasetFacts) -> list[str]:
    """The address of each licence, most text first; one without an address by its own name."""
    found: dict[str, None] = {}
    for part in facts.licences:
        found |= dict.fromkeys(licence_addresses(part.name) or [part.name or "NOASSERTION"])
    return list(found)


def _usage(facts: DatasetFacts) -> Iterator[dict[str, Any]]:
    """What each licence asks for, and for which share of the text."""
    for part in facts.licences:
        name = part.name or "NOASSERTION"
        asks = duties(name) or ("no licence, see its basis" if name in NO_LICENCE else "see the licence")
        found: dict[str, Any] = {
            "@type": "sc:CreativeWork",
            "name": name,
            "description": f"{asks}; {percent(facts.share(part))} of the bytes, {part.texts:,} {facts.texts_are}",
        }
        addresses = licence_addresses(name)
        yield {**found, "url": addresses[0]} if len(addresses) == 1 else found


def _source(source: SourceRecord) -> dict[str, Any]:
    """A source as a PROV entity; its address is an identifier only where it is one of the web."""
    declared = source.declared
    licence = declared.get("licence")
    found: dict[str, Any] = {"@type": "prov:Entity", "name": source.name, "description": collected(source)}
    address = web_address(declared.get("url"))
    if address is not None:
        found["url"] = address
    if declared.get("revision"):
        found["version"] = str(declared["revision"])
    if isinstance(licence, str) and licence:
        found["license"] = licence_addresses(licence) or [licence]
    if declared.get("rights_holder"):
        found["prov:wasAttributedTo"] = {"@type": "prov:Agent", "name": str(declared["rights_holder"])}
    parents = [_parent(each) for each in declared.get("generated_from") or () if isinstance(each, Mapping)]
    if parents:
        found["prov:wasDerivedFrom"] = parents
    return found


def _parent(each: Mapping[str, Any]) -> dict[str, Any]:
    """What generated text was generated from."""
    licence = str(each.get("licence") or "")
    found: dict[str, Any] = {"@type": "prov:Entity", "name": str(each.get("name", ""))}
    if each.get("version"):
        found["version"] = str(each["version"])
    if licence:
        found["license"] = licence_addresses(licence) or [licence]
    if each.get("purpose"):
        found["description"] = str(each["purpose"])
    return found


def _step(facts: DatasetFacts) -> dict[str, Any]:
    run = facts.artifact.record["predicate"]["runDetails"]
    return {
        "@type": "prov:Activity",
        "name": f"the step that made {facts.artifact.ref}",
        "identifier": str(run["metadata"]["invocationId"]),
        "prov:startedAtTime": run["metadata"]["startedOn"],
        "prov:endedAtTime": run["metadata"]["finishedOn"],
        "prov:wasAssociatedWith": {
            "@type": "prov:SoftwareAgent",
            "name": f"hanse {run['builder']['version']['hanse']}",
        },
    }


def _file_objects(facts: DatasetFacts) -> Iterator[dict[str, Any]]:
    for file in facts.files:
        yield {
            "@type": "cr:FileObject",
            "@id": _identifier(file.path),
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.bytes} B",
            "encodingFormat": _FORMATS.get(file.path.rpartition(".")[2], "application/octet-stream"),
            "sha256": file.sha256,
        }


def _file_sets(facts: DatasetFacts) -> Iterator[dict[str, Any]]:
    """One set by a glob, contained in nothing: a set within several files validates, and then cannot be read."""
    if any(file.path.startswith("text/") for file in facts.files):
        yield {
            "@type": "cr:FileSet",
            "@id": "text-files",
            "name": "text-files",
            "description": "The text that stayed, a row each.",
            "encodingFormat": _PARQUET,
            "includes": TEXTS,
        }


def _row_sets(facts: DatasetFacts) -> Iterator[dict[str, Any]]:
    """Record sets that draw from files."""
    paths = {file.path: file for file in facts.files}
    if _is_talk(facts):
        yield from (_talk(split) for split in ("train", "heldout") if f"{split}.jsonl" in paths)
        return
    first = next((path for path in paths if path.startswith("text/") and path.endswith(".parquet")), None)
    if first is not None:
        fields = _columns(facts, first, "texts", {"fileSet": {"@id": "text-files"}})
        yield _record_set("texts", "Text that stayed, personal data treated as recorded.", fields, key="texts/id")
    if TABLE in paths:
        fields = _columns(facts, TABLE, "documents", {"fileObject": {"@id": _identifier(TABLE)}})
        about = (
            "Every document that was seen, kept or dropped, without its text. `licence` is the licence of the one "
            "document, `drop_reason` is empty where it stayed."
        )
        yield _record_set("documents", about, fields)


def _columns(facts: DatasetFacts, path: str, prefix: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of a Parquet file that Croissant has words for; nested ones are left out."""
    import pyarrow as pa
    import pyarrow.parquet

    found = []
    for column in pyarrow.parquet.read_schema(facts.artifact.path / path):
        is_list = pa.types.is_list(column.type)
        kind = _data_type(column.type.value_type if is_list else column.type)
        if kind is None:
            continue
        shape = {"isArray": True, "arrayShape": "-1"} if is_list else {}
        origin = {**source, "extract": {"column": column.name}}
        found.append({**_field(f"{prefix}/{column.name}", kind), **shape, "source": origin})
    return found


def _data_type(kind: Any) -> str | None:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "sc:Text"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else None


def _talk(split: str) -> dict[str, Any]:
    """Conversations of one split: what every line has, and role and content of each message."""
    source = {"fileObject": {"@id": _identifier(f"{split}.jsonl")}}
    fields = [
        {**_field(f"{split}/{name}", "sc:Text"), "source": {**source, "extract": {"column": name}}}
        for name in ("id", "language", "licence", "source")
    ]
    turns = [
        {
            **_field(f"{split}/messages/{name}", "sc:Text"),
            "source": {**source, "extract": {"column": "messages"}, "transform": {"jsonPath": name}},
        }
        for name in ("role", "content")
    ]
    name = f"{split}/messages"
    messages = {"@type": "cr:Field", "@id": name, "name": name, "isArray": True, "arrayShape": "-1", "subField": turns}
    return _record_set(split, "Conversations, one a line.", [*fields, messages])


def _count_sets(facts: DatasetFacts) -> Iterator[dict[str, Any]]:
    """Counts, held in the description itself: shares of licences, languages, sources and splits; reasons; findings."""
    for name, parts in (
        ("licences", facts.licences),
        ("languages", facts.languages),
        ("sources", facts.sources),
        ("collections", facts.collections),
        ("splits", facts.splits),
    ):
        if parts:
            yield _shares(name, parts, facts)
    for name, about, counts in (
        ("drop-reasons", "Documents that were left out, by reason; a document may have several.", facts.dropped),
        ("personal-data", "Findings in the documents that stayed, by kind.", facts.personal),
    ):
        if counts:
            fields = [_field(f"{name}/kind", "sc:Text"), _field(f"{name}/count", "sc:Integer")]
            rows = [{f"{name}/kind": kind, f"{name}/count": count} for kind, count in counts.items()]
            yield {**_record_set(name, about, fields), "data": rows}


def _shares(name: str, parts: Sequence[Part], facts: DatasetFacts) -> dict[str, Any]:
    """What stayed, by licence or another column: texts, bytes, tokens, and the share of the bytes, where recorded."""
    kinds = {"name": "sc:Text", facts.texts_are: "sc:Integer"}
    has_bytes, has_tokens = (all(getattr(part, what) is not None for part in parts) for what in ("bytes", "tokens"))
    kinds |= {"bytes": "sc:Integer", "share": "sc:Float"} if has_bytes and facts.kept.bytes else {}
    kinds |= {"tokens": "sc:Integer"} if has_tokens else {}
    rows = []
    for part in parts:
        told = {"name": _shown(name, part), facts.texts_are: part.texts, "bytes": part.bytes, "tokens": part.tokens}
        told["share"] = round(facts.share(part) or 0.0, 6)
        rows.append({f"{name}/{key}": told[key] for key in kinds})
    about = f"What stayed, by {name}" + (f"; tokens counted by {facts.tokens_by}." if has_tokens else ".")
    return {**_record_set(name, about, [_field(f"{name}/{key}", kind) for key, kind in kinds.items()]), "data": rows}


def _shown(column: str, part: Part) -> str:
    if part.name:
        return part.name
    return "NOASSERTION" if column == "licences" else "not recorded"


def _record_set(name: str, about: str, fields: list[dict[str, Any]], key: str | None = None) -> dict[str, Any]:
    found = {"@type": "cr:RecordSet", "@id": name, "name": name, "description": about, "field": fields}
    return {**found, "key": {"@id": key}} if key else found


def _field(name: str, kind: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind}


def _identifier(path: str) -> str:
    """A file's identifier; Croissant's reader takes none with blanks."""
    return "file/" + path.replace(" ", "%20")
