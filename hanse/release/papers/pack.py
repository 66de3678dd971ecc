"""All papers of a release, and the folder that they are written to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from hanse.release.ledger import Ledger, record_names
from hanse.release.papers import render
from hanse.release.papers.paper import Cell, Entry, Paper, Section, not_applicable
from hanse.release.papers.summary import predecessor
from hanse.store.digest import canonical_json

FORMS = (".md", ".html", ".json")
INDEX = "index.html"
PROVENANCE = "../provenance/"  # of the release, seen from its papers
OWN_RECORD = "../step.json"


def papers(ledger: Ledger) -> list[Paper]:
    """Every paper that people read, in the order of the index."""
    from hanse.release.compute import meter
    from hanse.release.papers import copyright, documentation, memorisation, summary
    from hanse.release.shares import paper as shares
    from hanse.release.sovereignty import card as sovereignty

    makers = (summary, documentation, copyright, meter, memorisation, shares, sovereignty)
    return [maker.paper(ledger) for maker in makers]


def write(made: Sequence[Paper], ledger: Ledger, folder: Path) -> list[str]:
    """Write papers as Markdown, HTML and JSON, and `index.html` with a link to each.

    Args:
        made: of `papers`, and more where there is more to say; each gets a last section on what it was made from.
        folder: exists, and is the papers' own.

    Returns:
        The names of the files, sorted.
    """
    complete = [stamped(paper, ledger) for paper in made]
    records = {ref: f"{PROVENANCE}{quote(name)}.json" for ref, name in record_names(ledger.ancestors).items()}
    records[ledger.ref] = OWN_RECORD
    texts = {INDEX: render.index(f"Papers of {ledger.title or ledger.name}, version {ledger.version}", complete)}
    for paper in complete:
        forms = (render.markdown(paper), render.html(paper, records), render.as_json(paper))
        for form, text in zip(FORMS, forms, strict=True):
            if f"{paper.name}{form}" in texts:
                raise ValueError(f"two papers are called {paper.name}")
            texts[f"{paper.name}{form}"] = text
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return sorted(texts)


def digest(ledger: Ledger) -> str:
    """SHA-256 over everything that papers are made of: a paper with another digest is out of date.

    Canonical JSON of the ancestors with the digests of their content and of their records, the predecessor, the
    withdrawals, the settings of the release and the digest of the answers.
    """
    made_of = {
        "release": [
            ledger.ref,
            ledger.title,
            ledger.description,
            ledger.contact,
            ledger.licence,
            list(ledger.languages),
        ],
        "ancestors": [[each.ref, each.digest, each.record_digest] for each in ledger.ancestors],
        "predecessor": [ledger.predecessor.ref, ledger.predecessor.digest] if ledger.predecessor else None,
        "answers": ledger.answers_digest,
        "withdrawals": [each.get("digest", "") for each in ledger.withdrawals],
        "key": ledger.key_fingerprint,
    }
    return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()


def stamped(paper: Paper, ledger: Ledger) -> Paper:
    """The paper with a last section that says what it was made from, and how to check that."""
    place = f"{ledger.ref} step.json"
    said = (
        Cell(ledger.answers_digest, "answers.toml", f"sha256:{ledger.answers_digest}")
        if ledger.answers_digest
        else not_applicable("no answers.toml was given", place)
    )
    key = ledger.key_fingerprint
    entries = (
        Entry("", "Release", Cell(ledger.ref, place)),
        Entry("", "Made from", Cell(
            digest(ledger), "provenance/", f"sha256:{digest(ledger)} over {len(ledger.ancestors)} ancestors, their "
            "records, the answers and the withdrawals; another digest means that this paper is out of date")),
        Entry("", "Answers of people", said),
        Entry("", "Predecessor", predecessor(ledger)),
        Entry("", "Integrity", Cell(
            key, "model.sig", "this file is covered by the signature of the release; the fingerprint of the key "
            f"(SHA-256 of it in DER) is {key}; check it in the folder of the release with: python verify.py --key "
            "SIGNERS_KEY.pem")),
    )  # fmt: skip
    stamp = Section("", "About this paper", entries)
    return replace(paper, sections=(*paper.sections, stamp))
