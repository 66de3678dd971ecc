"""Checks of the gate on what the records say: licences, contracts, languages, answers, ancestors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.release.gate.audit import Finding, Outcome
from hanse.release.gate.licences import Judgement, judge
from hanse.release.shares.licensed import concerns
from hanse.release.shares.paper import terms
from hanse.store import record as records

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger
    from hanse.store.stage import Artifact, Store

COUNTS = "counts.json"
_OUTCOME: Mapping[str, Outcome] = {
    "compatible": "passed",
    "conditional": "warned",
    "unknown": "failed",
    "incompatible": "failed",
}


def licences(ledger: Ledger) -> Iterator[Finding]:
    """Whether the licences of the text let the weights have theirs; and those of a model that this one continues."""
    said = _said(ledger, "licences")
    judged: dict[tuple[str, str], tuple[Judgement, str, int]] = {}
    for (licence, basis), (texts, place) in sorted(_grounds(ledger).items()):
        judged[licence, basis] = judge(licence, ledger.licence, basis=basis), place, texts
    allowed = []
    for (licence, basis), (found, place, texts) in judged.items():
        told = (
            f"{texts:,} texts under {licence or 'no licence'} ({basis}), released under {ledger.licence}: {found.why}"
        )
        if found.verdict == "compatible":
            allowed.append(licence)
        elif found.verdict == "unknown" and str(said.get(licence) or "").strip():
            yield Finding("licences", "warned", f"{told}; answers.toml says: {said[licence]}", place)
        else:
            yield Finding("licences", _OUTCOME[found.verdict], told, place)
    yield from _start_licence(ledger)
    if allowed:
        named = ", ".join(dict.fromkeys(allowed))
        yield Finding("licences", "passed", f"text under {named} allows weights under {ledger.licence}")
    if not judged:
        yield Finding("licences", "failed", "no record names a licence of any text")


def contracts(ledger: Ledger) -> Iterator[Finding]:
    """No contract that had ended, or was not in force, when its text was used."""
    days = terms(ledger.answers).warn_days
    noted = concerns(ledger.ancestors, made=ledger.made, warn_days=days)
    for each in noted:
        outcome: Outcome = "failed" if each.kind in ("expired", "not-in-force") else "warned"
        yield Finding("contracts", outcome, each.what, each.source)
    if not noted:
        licensed = sum(each.declared.get("obtained") == "licensed" for each in ledger.sources)
        what = f"{licensed} licensed sources, every contract in force" if licensed else "no licensed source"
        yield Finding("contracts", "passed", what)


def languages(ledger: Ledger) -> Iterator[Finding]:
    """Every language that the release claims has text that was trained on, and figures."""
    trained: Counter[str] = Counter()
    for artifact in ledger.ancestors:
        trained.update(_texts_by_language(artifact))
    measured = {str(row["language"]) for row in ledger.scores}
    bare = [code for code in ledger.languages if not trained[code]]
    unmeasured = [code for code in ledger.languages if code not in measured]
    for codes, what in ((bare, "no text to train on in"), (unmeasured, "no figure in")):
        if codes:
            yield Finding("languages", "failed", f"claimed, but {what}: {', '.join(codes)}", ledger.evaluation.ref)
    if not ledger.languages:
        yield Finding("languages", "failed", "no language is claimed")
    elif not bare and not unmeasured:
        yield Finding("languages", "passed", f"all {len(ledger.languages)} have text and figures")


def answers(ledger: Ledger) -> Iterator[Finding]:
    """Every mandatory question of the papers is answered, and no answer contradicts the records."""
    from hanse.release.compute import meter
    from hanse.release.papers import lint, pack

    contradictions = list(lint.contradictions(ledger))
    yield from (Finding("answers", "failed", str(each)) for each in contradictions)
    yield from (Finding("answers", "warned", each.what, each.source) for each in meter.contradictions(ledger))
    missing = list(lint.missing(pack.papers(ledger)))
    for entry in missing:
        place = f"answers.toml {entry.key}" if entry.key else "no record says"
        yield Finding("answers", "failed", f"{entry.number} {entry.question}: unanswered".strip(), place)
    if not contradictions and not missing:
        yield Finding("answers", "passed", "every mandatory question is answered, and nothing contradicts the records")


def ancestors(ledger: Ledger, store: Store) -> Iterator[Finding]:
    """The ancestors in the store are the recorded ones, and their files are untouched."""
    from hanse.release.folder import collect_ancestors

    tops = [each for each in (ledger.model, ledger.evaluation, ledger.memorisation) if each is not None]
    found = collect_ancestors(store, tops)
    unknown = sorted({each.ref for each in found} ^ {each.ref for each in ledger.ancestors})
    for ref in unknown:
        yield Finding("ancestors", "failed", "is not in both the store's records and the release's", ref)
    for artifact in found:
        try:
            store.require_intact(artifact, "release what was made from it")
        except InputError as error:
            unknown.append(artifact.ref)
            yield Finding("ancestors", "failed", str(error).rstrip("."), artifact.ref)
    if not unknown:
        yield Finding("ancestors", "passed", f"{len(found)} ancestors, each as recorded")


# --------------------------------------------------------------------------- what was used on which ground


def _grounds(ledger: Ledger) -> dict[tuple[str, str], tuple[int, str]]:
    """Texts that were kept, and where that is on record, by licence and its basis."""
    texts: defaultdict[tuple[str, str], int] = defaultdict(int)
    places: dict[tuple[str, str], str] = {}
    for artifact in ledger.ancestors:
        for key, count, place in _kept(artifact, ledger):
            texts[key] += count
            places.setdefault(key, place)
    return {key: (texts[key], places[key]) for key in texts}


def _kept(artifact: Artifact, ledger: Ledger) -> Iterator[tuple[tuple[str, str], int, str]]:
    if artifact.kind == "dataset":
        groups = _groups(artifact)
        if groups is not None:
            for group in groups:
                key = str(group.get("licence") or ""), str(group.get("licence_basis") or "unknown")
                yield key, int(group["documents"]), f"{artifact.ref} {COUNTS}"
            return
    if artifact.kind not in ("dataset", "conversations"):
        return
    kind = "documents" if artifact.kind == "dataset" else "conversations"
    basis = {
        source.name: str(source.declared.get("licence_basis") or "unknown")
        for source in ledger.sources
        if source.artifact == artifact
    }
    for credit in ledger.credits:
        # A credit does not name its artifact; where two hold sources of one name, both count for it.
        is_own = credit.source in basis or not basis
        if credit.kind == kind and is_own:
            yield (credit.licence, basis.get(credit.source, "unknown")), credit.texts, artifact.ref


def _groups(dataset: Artifact) -> list[dict[str, Any]] | None:
    """The kept documents by language, licence and split; None for a dataset that kept no counts."""
    from hanse.release.ledger import read_counts

    return list(read_counts(dataset)["groups"]) if (dataset.path / COUNTS).is_file() else None


def _texts_by_language(artifact: Artifact) -> Counter[str]:
    """Texts of training by language code."""
    found: Counter[str] = Counter()
    if artifact.kind == "dataset":
        for group in _groups(artifact) or ():
            if group.get("split", "train") == "train":
                found[str(group["language"])] += int(group["documents"])
    elif artifact.kind == "conversations" and (artifact.path / COUNTS).is_file():
        from hanse.release.ledger import read_counts

        for key, count in read_counts(artifact).items():
            split, _, rest = key.partition("/")
            if split == "train":
                found[rest.rpartition("/")[2]] += int(count)
    return found


def _start_licence(ledger: Ledger) -> Iterator[Finding]:
    """A model that was continued brings its licence; no record holds it, so a person has to say it."""
    for model in ledger.of_kind("model"):
        if not records.definition_of(model.record).get("model", {}).get("start"):
            continue
        place = "answers.toml contracts.base_model_licence"
        licence = str(ledger.answers.get("contracts", {}).get("base_model_licence") or "")
        if not licence:
            yield Finding(
                "licences", "failed", f"{model.ref} continues another model, whose licence nobody named", place
            )
            continue
        found = judge(licence, ledger.licence)
        told = f"the model that {model.ref} continues is under {licence}: {found.why}"
        yield Finding("licences", _OUTCOME[found.verdict], told, place)


def _said(ledger: Ledger, key: str) -> Mapping[str, Any]:
    found = ledger.answers.get("contracts", {}).get(key, {})
    if not isinstance(found, Mapping):
        raise InputError(f'answers.toml [contracts] {key}: has to be a section of licence = "why it is compatible".')
    return found
