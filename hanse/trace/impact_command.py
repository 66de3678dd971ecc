"""`hanse impact`: say what documents went into, and how often each model saw them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from hanse.errors import InputError
from hanse.store import criteria

if TYPE_CHECKING:
    from hanse.store.stage import Store
    from hanse.trace.impact import Impact
    from hanse.trace.matching import Wanted

MOST_TEXTS = 1000  # of a dataset whose copies are looked for; more would take minutes
FIELDS = ("id", "url", "domain", "author", "source", "title", "licence")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hanse impact`."""
    wanted = parser.add_argument_group("which documents", "everything given has to hold; or one withdrawal")
    criteria.add_options(wanted, FIELDS)
    wanted.add_argument("--withdrawal", metavar="ID", help="what a withdrawal covers, or the beginning of its id")
    wanted.add_argument("--show-names", action="store_true", help="with --withdrawal: personal data too, not hashes")
    parser.add_argument("--copies", action="store_true", help="look for copies too, through the index of `hanse trace`")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="documents to name (default: 10)")


def run(options: argparse.Namespace) -> int:
    """Carry out `hanse impact`.

    Returns:
        0; or 1 where a record is missing, was edited or contradicts another, so that the answer may not be all.

    Raises:
        InputError: nothing to look for, no store, an unknown withdrawal.
    """
    from hanse.store.stage import Store
    from hanse.trace import impact, impact_tree

    if options.limit < 0:
        raise InputError(f"--limit {options.limit}: give a number of documents, 0 for none.")
    store = Store.open(options.store, create=False)
    wanted = _wanted(options, store)
    found = impact.impact(store, wanted, limit=options.limit)
    if options.copies:
        found = _with_copies(store, wanted, found)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
    else:
        print(impact_tree.text(found))
    return 1 if found.gaps else 0


def _wanted(options: argparse.Namespace, store: Store) -> Wanted:
    from hanse.trace import matching

    given = {name: value for name in FIELDS if (value := getattr(options, name)) is not None}
    if options.withdrawal is None:
        if options.show_names:
            raise InputError("--show-names: goes with --withdrawal; what is asked for otherwise is named anyway.")
        if not given:
            raise InputError(f"nothing to look for; give one or more of --{', --'.join(FIELDS)}, or --withdrawal.")
        return matching.by_criteria(criteria.Criteria(**given))
    if given:
        raise InputError(f"--withdrawal: says itself what it covers; leave out --{next(iter(given))}.")
    from hanse.trace import withdrawal

    known = withdrawal.read(store.root)
    meant = [each for each in known if options.withdrawal and each.id.startswith(options.withdrawal)]
    if len(meant) != 1:
        named = ", ".join(each.id for each in meant or known)
        what = f"fits several: {named}" if meant else f"no such withdrawal in {store.root}"
        known_ones = "" if meant else f", which holds {named or 'none'}"
        raise InputError(f"--withdrawal {options.withdrawal}: {what}{known_ones}.")
    return matching.by_withdrawal(meant[0], with_names=options.show_names)


def _with_copies(store: Store, wanted: Wanted, found: Impact) -> Impact:
    from dataclasses import replace

    from hanse.console import Console
    from hanse.trace import copies, matching

    texts: dict[str, dict[str, str]] = {}
    gaps: list[str] = []
    for ref in (each.ref for each in found.reached if each.held is not None or each.spoken is not None):
        try:
            texts[ref] = matching.texts(store.find(ref), wanted, most=MOST_TEXTS)
        except InputError as error:
            gaps.append(str(error))
        else:
            if len(texts[ref]) == MOST_TEXTS:
                gaps.append(f"{ref}: only copies of its first {MOST_TEXTS:,} texts that match were looked for.")
    held = {ref: set(content) for ref, content in texts.items()}
    try:
        proposed = copies.propose(
            store, held, lambda artifact, ids: [texts[artifact.ref][each] for each in sorted(ids)], Console().progress
        )
    except InputError as error:
        return replace(found, gaps=(*found.gaps, *gaps, str(error)))
    others = tuple(
        replace(each, document=matching.as_told(each.document, wanted))
        for each in proposed
        if not matching.is_meant(each.document, wanted)
    )
    return replace(found, copies=others, gaps=(*found.gaps, *gaps))
