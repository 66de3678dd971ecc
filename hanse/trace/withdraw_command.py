"""`hanse withdraw`: find what somebody means, show it, ask, and record that it has to be left out from now on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.store.criteria import add_options as add_criteria
from hanse.trace import withdrawal as withdrawals
from hanse.trace.withdrawal import FIELDS, REASONS, REQUESTERS, Withdrawal

if TYPE_CHECKING:
    from hanse.store.stage import Artifact, Store
    from hanse.trace.copies import Copy

SHOWN = 10  # documents of an artifact, and copies
_COLUMNS = ("language", "title", "author", "url", "source", "collection", "file", "line", "bytes")


@dataclass
class Meant:
    """What a withdrawal means in one dataset or in conversations.

    Attributes:
        ref: `kind/name/version`.
        documents, kept: rows that are meant; of these, those whose text is there.
        bytes: of the text kept, in UTF-8; 0 where the table does not say.
        ids: of all that are meant.
        kept_ids: of those that are kept.
        shown: the first of them, as rows.
        near: near-copies in their clusters that are not meant themselves, as rows.
    """

    ref: str
    documents: int = 0
    kept: int = 0
    bytes: int = 0
    ids: set[str] = field(default_factory=set)
    kept_ids: set[str] = field(default_factory=set)
    shown: list[dict[str, Any]] = field(default_factory=list)
    near: list[dict[str, Any]] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hanse withdraw`."""
    what = parser.add_argument_group("what", "all that is given has to hold")
    add_criteria(what, FIELDS)
    what.add_argument("--future", action="store_true", help="record it although nothing matches yet")
    what.add_argument("--copies", action="store_true", help="look for the same passages in other documents, by index")
    what.add_argument("--with-copies", action="store_true", help="withdraw the copies that are shown too")
    why = parser.add_argument_group("why")
    why.add_argument("--reason", choices=REASONS, metavar="R", help=f"one of {', '.join(REASONS)}")
    why.add_argument(
        "--evidence", default="", metavar="TEXT_OR_FILE", help="a text, or a file of which the digest is kept"
    )
    why.add_argument(
        "--requester", default="", choices=REQUESTERS, metavar="CLASS", help=f"one of {', '.join(REQUESTERS[1:])}"
    )
    why.add_argument("--received", default="", metavar="DAY", help="when the request came (default: today, UTC)")
    how = parser.add_argument_group("how")
    how.add_argument("--dry-run", action="store_true", help="show what would be withdrawn, and stop")
    how.add_argument("--yes", action="store_true", help="do not ask")
    how.add_argument(
        "--key", type=Path, metavar="PEM", help="the private key that signed the releases (default: yours)"
    )
    how.add_argument(
        "--refresh", action="store_true", help="withdraw nothing; write the output filter and missing notices again"
    )


def run(options: argparse.Namespace) -> int:
    """Carry out `hanse withdraw`. Returns the exit code: 1 if the person said no.

    Raises:
        InputError: nothing to look for, nothing found, a day or reason that is none, or a store that cannot be read.
    """
    from hanse.store.stage import Store

    criteria = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    if options.refresh:
        if criteria:
            raise InputError("--refresh: withdraws nothing; leave it out, or leave out what to look for.")
        _check_key(options.key)
        store = Store.open(options.store, create=False)
        return _report(_effects(store, options.key), options, {})
    if options.reason is None:
        raise InputError(f"--reason: is missing; give one of {', '.join(REASONS)}.")
    asked = withdrawals.draft(
        criteria, reason=options.reason, received=options.received, evidence=options.evidence,
        requester=options.requester, copies=options.with_copies,
    )  # fmt: skip
    _check_key(options.key)
    store = Store.open(options.store, create=False)
    known = withdrawals.read(store.root)
    if (same := withdrawals.repeats(asked, known)) is not None:
        raise InputError(f"this is withdrawn already, by {same.file_name}; later documents are covered by it too.")
    found = find(store, asked)
    if not any(each.documents for each in found) and not options.future:
        raise InputError(_nothing(store, found, criteria))
    copies = _proposed(store, found) if options.copies else []
    # Who has said yes already needs no names on a screen or in a log.
    is_nameless = asked.is_personal and not options.dry_run and (options.yes or options.json)
    told = _told(found, copies, is_nameless=is_nameless)
    if not options.json:
        _show(found, copies, has_copies=options.with_copies, is_nameless=is_nameless)
    if options.dry_run:
        return _report({}, options, told)
    if not options.yes and not _agreed(options, found):
        print("nothing was withdrawn", file=sys.stderr)
        return 1
    made = record(store, asked, found, copies)
    return _report(_effects(store, options.key), options, {**told, "withdrawal": made.as_dict()}, made)


def _check_key(path: Path | None) -> None:
    """Refuse a key that cannot sign, before anything is recorded."""
    from hanse.release import sign

    if path is not None and not path.is_file():
        raise InputError(f"--key {path}: is no file; name the private key that signed the releases.")
    if path is not None:
        sign.load_or_create_key(path)


def find(store: Store, asked: Withdrawal) -> list[Meant]:
    """What a draft means in every dataset and conversations artifact of a store.

    Raises:
        InputError: a table that cannot be read.
    """
    from hanse.trace import leaving

    return [_in(artifact, replace(asked, copies=False, reason="other")) for artifact in leaving.artifacts(store)]


def _in(artifact: Artifact, asked: Withdrawal) -> Meant:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from hanse.store.query import is_kept
    from hanse.trace import leaving

    found = Meant(artifact.ref)
    clusters: set[str] = set()
    read = partial(leaving.tables, artifact)
    for table, mask in leaving.meant(read, [asked], _COLUMNS):
        if not mask.any():
            continue
        rows, kept = table.filter(pa.array(mask)), table.filter(pa.array(mask & is_kept(table)))
        found.documents += len(rows)
        found.kept += len(kept)
        found.bytes += (pc.sum(kept["bytes"]).as_py() or 0) if "bytes" in kept.column_names else 0
        found.ids.update(rows["id"].to_pylist())
        found.kept_ids.update(kept["id"].to_pylist())
        found.shown += rows.slice(0, SHOWN - len(found.shown)).to_pylist() if len(found.shown) < SHOWN else []
        if "cluster" in rows.column_names:
            clusters.update(rows["cluster"].drop_null().to_pylist())
    if clusters:
        wanted = pa.array(sorted(clusters), pa.string())
        for table, mask in leaving.meant(read, [asked], _COLUMNS):
            if "cluster" in table.column_names:
                is_near = np.asarray(pc.is_in(table["cluster"], value_set=wanted), bool) & ~mask
                found.near += table.filter(pa.array(is_near)).to_pylist()
    return found


def _proposed(store: Store, found: Sequence[Meant]) -> list[Copy]:
    from hanse.console import Console
    from hanse.trace import copies, passages

    held = {each.ref: each.kept_ids for each in found if each.kept_ids}
    near = {row["id"] for each in found for row in each.near}
    made = copies.propose(store, held, passages.texts_of, Console().progress)
    return [each for each in made if each.document["id"] not in near]


def _nothing(store: Store, found: Sequence[Meant], criteria: Mapping[str, str]) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in criteria.items())
    places = [each.ref for each in found]
    where = f"looked in {', '.join(places[:8])}{' and more' if len(places) > 8 else ''}" if places else "it holds none"
    return (
        f"{asked}: means no document or conversation in {store.root} ({where}); see hanse find, or add --future to "
        "leave out what comes later."
    )


def _agreed(options: argparse.Namespace, found: Sequence[Meant]) -> bool:
    if options.json or not sys.stdin.isatty():
        raise InputError("withdraw: add --yes to record it without being asked, or --dry-run to look only.")
    sys.stderr.write(f"Withdraw {_documents(sum(each.documents for each in found))} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def record(store: Store, asked: Withdrawal, found: Sequence[Meant], copies: Sequence[Copy] = ()) -> Withdrawal:
    """Write a withdrawal with what it means; the copies only if the draft says so.

    Raises:
        InputError: as `withdrawal.write`.
    """
    ids = set().union(*(each.ids for each in found))
    kept = {each.ref: each.kept for each in found if each.kept}
    if asked.copies:
        ids |= {row["id"] for each in found for row in each.near}
        ids |= {str(each.document["id"]) for each in copies}
    known = withdrawals.read(store.root)
    return withdrawals.write(store.root, withdrawals.sealed(asked, ids, kept, known))


def _effects(store: Store, key: Path | None) -> dict[str, Any]:
    """Write the output filter and the notices that are missing, for all withdrawals of the store."""
    from hanse.release import sign
    from hanse.trace import notice, passages

    known = withdrawals.read(store.root)
    if not known:
        raise InputError(f"{store.root}: nothing was withdrawn here, so there is nothing to write again.")
    place = passages.write(store, known)
    notices, unsigned = notice.write_missing(store, known, key or sign.default_key_path())
    return {
        "filter": str(place),
        "passages": len(passages.Filter.open(place).hashes),
        "notices": [str(path) for path in notices],
        "unsigned": [{"release": ref, "key": fingerprint} for ref, fingerprint in unsigned],
    }


# --------------------------------------------------------------------------- telling


def _told(found: Sequence[Meant], copies: Sequence[Copy], *, is_nameless: bool) -> dict[str, Any]:
    if is_nameless:
        return {
            "found": [
                {
                    "artifact": each.ref, "documents": each.documents, "kept": each.kept, "bytes": each.bytes,
                    "near_copies": len(each.near),
                }
                for each in found if each.documents
            ],
            "copies": len(copies),
        }  # fmt: skip
    return {
        "found": [
            {
                "artifact": each.ref, "documents": each.documents, "kept": each.kept, "bytes": each.bytes,
                "shown": each.shown, "near_copies": [row["id"] for row in each.near],
            }
            for each in found if each.documents
        ],
        "copies": [
            {"artifact": each.artifact, "document": dict(each.document), "passages": each.passages} for each in copies
        ],
    }  # fmt: skip


def _show(found: Sequence[Meant], copies: Sequence[Copy], *, has_copies: bool, is_nameless: bool) -> None:
    from hanse.report.plain import size

    for each in found:
        if not each.documents:
            continue
        print(
            f"{each.ref}: {_documents(each.documents)}, {each.kept} kept" + (f", {size(each.bytes)}" * (each.bytes > 0))
        )
        if is_nameless:
            continue
        for row in each.shown:
            print(f"  {_line(row)}")
        if each.documents > len(each.shown):
            print(f"  and {each.documents - len(each.shown)} more")
        for row in each.near[:SHOWN]:
            print(f"  near-copy  {_line(row)}")
        if len(each.near) > SHOWN:
            print(f"  and {len(each.near) - SHOWN} more near-copies")
    if is_nameless:
        print("personal data: no document is named; --dry-run names them")
    for copy in () if is_nameless else copies[:SHOWN]:
        print(f"{copy.artifact}: shares {copy.passages} passages: {_line(copy.document)}")
    if len(copies) > SHOWN and not is_nameless:
        print(f"and {len(copies) - SHOWN} more that share passages; all of them with --json")
    if (copies or any(each.near for each in found)) and not has_copies:
        print(
            "copies stay, and may take the place of what leaves; look at them, and add --with-copies if they are meant"
        )


def _report(
    effects: Mapping[str, Any], options: argparse.Namespace, told: Mapping[str, Any], made: Withdrawal | None = None
) -> int:
    if options.json:
        print(json.dumps({**told, **effects}, indent=1, ensure_ascii=False))
        return 0
    if made is not None:
        print(f"recorded as {made.file_name}")
    if effects:
        print(f"output filter: {effects['passages']:,} passages in {effects['filter']}")
        for path in effects["notices"]:
            print(f"notice: {path}")
        for each in effects["unsigned"]:
            print(
                f"no notice beside {each['release']}: it was signed by key {each['key'][:16] or 'unknown'}, which is "
                "not here; run: hanse withdraw --refresh --key PEM"
            )
    if made is not None:
        _next(made)
    return 0


def _next(made: Withdrawal) -> None:
    if made.found:
        print(f"to leave it out, raise `version` in the recipes of {', '.join(sorted(made.found))}, and run them again")
        print("models trained on it stay as they are; to see which: hanse impact")


def _documents(count: int) -> str:
    return f"{count:,} document{'s' * (count != 1)}"


def _line(row: Mapping[str, Any]) -> str:
    from hanse.report.plain import shortened

    parts = [str(row.get("id")), row.get("language"), row.get("title"), row.get("author"), row.get("url")]
    if not row.get("url"):
        parts.append(f"{row.get('file') or row.get('source')}" + (f" line {row['line']}" if row.get("line") else ""))
    return shortened("  ".join(str(part) for part in parts if part), 200)
