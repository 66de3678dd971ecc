"""`hanse shares`: what licensed text brought into a release, and what a fund pays under a rule."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hanse.release.shares.licensed import Concern, Shares
    from hanse.release.shares.payout import Terms
    from hanse.store.stage import Artifact, Store


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hanse shares`."""
    parser.add_argument("release", metavar="RELEASE", help="release/name[/version], or just its name")
    parser.add_argument("--fund", metavar="EUR", help="what is paid out, in euros, for example 25000 or 999.99")
    parser.add_argument("--rule", metavar="NAME", help="equal, tokens, documents, bytes or scarcity (default: tokens)")
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="answers.toml; its [contracts] names fund, rule, floor, cap"
    )


def run(options: argparse.Namespace) -> int:
    """Carry out `hanse shares`. Returns 0, or 1 where a contract had ended or was not in force.

    Raises:
        InputError: no such release, terms that cannot be met, or a licensed source without records of its text.
    """
    from hanse.release.folder import collect_ancestors
    from hanse.release.shares.licensed import concerns, shares
    from hanse.release.shares.payout import payout
    from hanse.store.stage import Store

    store = Store.open(options.store, create=False)
    name = options.release if "/" in options.release else f"release/{options.release}"
    release = store.find(name)
    if release.kind != "release":
        raise InputError(f"{release.ref}: is no release; name one, for example release/atlas.")
    ancestors = collect_ancestors(store, _tops(store, release))
    found, terms = shares(ancestors), _terms(options)
    if not found.licensed and terms.fund_cents:
        raise InputError(
            f"{release.ref}: no source is recorded as licensed, so the fund has no taker; leave --fund out."
        )
    due = payout(found.claims, found.supply, terms) if terms.fund_cents is not None and found.licensed else None
    made = max(each.record["predicate"]["runDetails"]["metadata"]["finishedOn"] for each in ancestors)
    noted = concerns(ancestors, made=made, warn_days=terms.warn_days)
    if options.json:
        print(json.dumps(_as_dict(release.ref, found, terms, due, noted), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_text(release.ref, found, terms, due, noted)))
    return 1 if any(each.kind in ("expired", "not-in-force") for each in noted) else 0


def _tops(store: Store, release: Artifact) -> list[Artifact]:
    from hanse.store import record as records

    return [store.find(each.ref) for each in records.inputs_of(release.record)]


def _terms(options: argparse.Namespace) -> Terms:
    """The file's terms, with what the command line says instead."""
    from dataclasses import replace

    from hanse.release.papers import answers
    from hanse.release.shares.paper import cents, terms
    from hanse.release.shares.payout import RULES

    said = terms(answers.read(options.answers)[0] if options.answers else {})
    if options.fund is not None:
        said = replace(said, fund_cents=cents(options.fund, "--fund"))
    if options.rule is not None and options.rule not in RULES:
        raise InputError(f"--rule {options.rule}: is unknown; choose {', '.join(RULES)}.")
    return replace(said, rule=options.rule or said.rule)


def _as_dict(
    ref: str, found: Shares, terms: Terms, due: Sequence[int] | None, noted: Sequence[Concern]
) -> dict[str, Any]:
    rows = [
        {
            "rights_holder": each.claim.rights_holder or None,
            "contract": each.claim.contract or None,
            "sources": list(each.sources),
            "documents": each.claim.documents,
            "bytes": each.claim.bytes,
            "tokens": each.tokens,
            "tokens_trained": None if each.claim.trained is None else round(each.claim.trained),
            "start": each.start or None,
            "expiry": each.expiry or None,
            "due_cents": None if due is None else due[number],
            "source": each.backed_by,
        }
        for number, each in enumerate(found.licensed)
    ]
    told = [{"kind": each.kind, "contract": each.contract, "what": each.what, "source": each.source} for each in noted]
    paid = {"fund_cents": terms.fund_cents, "rule": terms.rule if due is not None else None}
    return {"release": ref, "licensed": rows, "trained_in_all": found.trained, **paid, "contracts": told}


def _text(ref: str, found: Shares, terms: Terms, due: Sequence[int] | None, noted: Sequence[Concern]) -> Iterator[str]:
    from hanse.release.shares.payout import euros

    if not found.licensed:
        yield f"{ref}: no source is recorded as obtained under a licence contract."
        return
    rows = [("rights holder", "contract", "documents", "bytes", "tokens trained", "last day", "due")]
    for number, each in enumerate(found.licensed):
        trained = "not recorded" if each.claim.trained is None else f"{round(each.claim.trained):,}"
        rows.append((
            each.claim.rights_holder or "not recorded", each.claim.contract or "not recorded",
            f"{each.claim.documents:,}", f"{each.claim.bytes:,}", trained, each.expiry or "not recorded",
            "-" if due is None else euros(due[number]),
        ))  # fmt: skip
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [row[n].ljust(widths[n]) if n < 2 else row[n].rjust(widths[n]) for n in range(len(row))]
        yield "  ".join(cells).rstrip()
    if due is not None:
        yield f"{ref}: {euros(sum(due))} by rule '{terms.rule}'"
    yield from (f"{each.kind}: {each.what} ({each.source})" for each in noted)
