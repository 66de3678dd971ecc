"""Shares of licensed text: the report for a content board, and what answers.toml [contracts] says about a payout.

A function of records: see `licensed` for what was counted, `payout` for the rules. docs/shares.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table, not_applicable
from hanse.release.shares.licensed import Shares, concerns, shares
from hanse.release.shares.payout import RULES, Terms, euros, payout

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger

#: Keys of answers.toml [contracts]: the terms of a payout, and what the gate asks about licences.
KEYS = ("fund", "rule", "floor", "cap", "warn_days", "licences", "base_model_licence")


def terms(answers: Mapping[str, Any]) -> Terms:
    """What answers.toml says under `[contracts]`.

    Raises:
        InputError: an unknown key, an unknown rule, or an amount that is no whole number of cents.
    """
    said = answers.get("contracts", {})
    if not isinstance(said, Mapping):
        raise InputError(f"answers.toml contracts: has to be a section with {', '.join(KEYS)}.")
    unknown = sorted(set(said) - set(KEYS))
    if unknown:
        raise InputError(f"answers.toml [contracts] {unknown[0]}: unknown key; known are {', '.join(KEYS)}.")
    rule = said.get("rule", Terms.rule)
    if rule not in RULES:
        raise InputError(f"answers.toml [contracts] rule: '{rule}' is unknown; choose {', '.join(RULES)}.")
    days = said.get("warn_days", Terms.warn_days)
    if not isinstance(days, int) or isinstance(days, bool) or days < 0:
        raise InputError(f"answers.toml [contracts] warn_days: {days!r} is no number of days; give 0 or more.")
    named = [key for key in ("fund", "floor", "cap") if key in said]
    amounts = {key: cents(said[key], f"answers.toml [contracts] {key}") for key in named}
    return Terms(amounts.get("fund"), rule, amounts.get("floor", 0), amounts.get("cap"), days)


def cents(value: object, where: str) -> int:
    """An amount in euros as cents.

    Args:
        value: a number or its text, such as 1000 or "999.99".
        where: what to call it in an error.

    Raises:
        InputError: no amount, below zero, or with fractions of a cent.
    """
    try:
        amount = Decimal(str(value)) * 100 if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount != int(amount):
        raise InputError(f"{where}: {value!r} is no amount in euros; write it like 1000 or 999.99.")
    return int(amount)


def paper(ledger: Ledger) -> Paper:
    """The report for a content board.

    Raises:
        InputError: terms that cannot be read or cannot be met.
    """
    found, said = shares(ledger.ancestors), terms(ledger.answers)
    about = (
        "What the text licensed from rights holders brought into this release, what that pays under the rule that was "
        "chosen, and which contracts need a look."
    )
    if not found.licensed:
        why = "no source of this release is recorded as obtained under a licence contract"
        names = "; ".join(dict.fromkeys(f"{each.artifact.ref} step.json source" for each in ledger.sources))
        body = (Entry("1", "What was licensed", not_applicable(why, names or "no source on record")),)
        return Paper("shares", "Shares of licensed content", about, (Section("1", "Licensed text", body),))
    sections = (
        Section("1", "Licensed text", (_text_table(found),)),
        Section("2", "Payout", tuple(_payout_body(found, said))),
        Section("3", "Contracts", tuple(_contract_body(found, ledger, said))),
        Section("4", "How this was counted", _METHOD),
    )
    return Paper("shares", "Shares of licensed content", about, sections)


_METHOD = (
    "Documents are those that training could read: kept, and not held out for validation. Bytes are as the table of "
    "documents counts them, in UTF-8.",
    "Tokens trained are the tokens of the text times the passes over its stream (a language of a source), summed over "
    "the stages of every pre-training run. Passes are given to four decimals, as mixture.json states them.",
    "In tuning, where one source of conversations is read at a time, its tokens are those that the step noted, filling "
    "included, split by the bytes of each rights holder.",
    "What counts is what was read, not what it did to the model: nothing here measures influence.",
)


def _text_table(found: Shares) -> Table:
    columns = (
        "rights holder", "contract", "sources", "documents", "bytes", "tokens of the text", "passes", "tokens trained",
        "share of licensed", "share of all training",
    )  # fmt: skip
    amounts = [claim.trained for claim in found.claims]
    licensed = None if None in amounts else sum((each for each in amounts if each), Fraction(0))
    rows = []
    for each in found.licensed:
        claim, backed = each.claim, each.backed_by
        passes = claim.trained / each.tokens if claim.trained is not None and each.tokens else None
        rows.append((
            Cell(claim.rights_holder or None, backed), Cell(claim.contract or None, backed),
            Cell(list(each.sources), backed), Cell(claim.documents, backed), Cell(claim.bytes, backed),
            Cell(each.tokens, backed), _number(passes, backed, "{:.4f}"), _whole(claim.trained, backed),
            _share(claim.trained, licensed, backed), _share(claim.trained, found.trained, backed),
        ))  # fmt: skip
    return Table(columns, tuple(rows), "By rights holder and contract")


def _payout_body(found: Shares, said: Terms) -> Iterator[Entry | Table]:
    """The terms, and what each rights holder is due under them."""
    place = "answers.toml contracts"
    yield Entry("2.1", "Fund", _amount(said.fund_cents, f"{place}.fund"), key="contracts.fund")
    if said.fund_cents is None:
        return
    what = (RULES[said.rule].__doc__ or "").split("\n")[0]
    yield Entry("2.2", "Rule", Cell(said.rule, f"{place}.rule", f"{said.rule}: {what}"), key="contracts.rule")
    yield Entry("2.3", "Floor for each rights holder", _amount(said.floor_cents, f"{place}.floor"))
    yield Entry("2.4", "Cap for each rights holder", _amount(said.cap_cents, f"{place}.cap", "none"))
    due = payout(found.claims, found.supply, said)
    rows = [
        (
            Cell(each.claim.rights_holder or None, each.backed_by),
            Cell(each.claim.contract or None, each.backed_by),
            _amount(amount, f"{each.backed_by}; {place}"),
        )
        for each, amount in zip(found.licensed, due, strict=True)
    ]
    rows.append((Cell("all", place), Cell("all", place), _amount(sum(due), f"{place}.fund")))
    yield Table(("rights holder", "contract", "due"), tuple(rows), "Payout", "Cents by largest remainder.")


def _contract_body(found: Shares, ledger: Ledger, said: Terms) -> Iterator[Table | str]:
    rows = tuple(
        (
            Cell(each.claim.contract or None, each.backed_by),
            Cell(each.claim.rights_holder or None, each.backed_by),
            Cell(each.start or None, each.backed_by),
            Cell(each.expiry or None, each.backed_by),
        )
        for each in found.licensed
    )
    yield Table(("contract", "rights holder", "first day", "last day"), rows, "Terms")
    noted = concerns(ledger.ancestors, made=ledger.made, warn_days=said.warn_days)
    if noted:
        told = tuple((Cell(each.kind, each.source), Cell(each.what, each.source)) for each in noted)
        yield Table(("kind", "what"), told, "What needs a look")
    else:
        yield f"Every contract held while training ran, and ends more than {said.warn_days} days after this release."


def _amount(value: int | None, source: str, otherwise: str = "") -> Cell:
    if value is None:
        return Cell(otherwise, source) if otherwise else Cell(None)
    return Cell(value / 100, source, euros(value))


def _whole(value: Fraction | None, source: str) -> Cell:
    return Cell(None) if value is None else Cell(round(value), source)


def _number(value: Fraction | None, source: str, shape: str) -> Cell:
    return Cell(None) if value is None else Cell(round(float(value), 6), source, shape.format(float(value)))


def _share(part: Fraction | None, whole: Fraction | int | None, source: str) -> Cell:
    value = Fraction(part) / whole if part is not None and whole else None
    return Cell(None) if value is None else Cell(round(float(value), 6), source, f"{float(value):.2%}")
