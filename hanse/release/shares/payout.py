"""How a fund is paid out to those whose text was licensed: named rules, a floor, a cap, and cents that add up.

A rule is a pure function from claims to weights; everything after it is exact arithmetic. The weights of a rights
holder's contracts are added up, the fund is shared out between floor and cap, and last come whole cents by largest
remainder (Hamilton's method), so that the sum is the fund to the cent. docs/shares.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from hanse.errors import InputError


@dataclass(frozen=True)
class Claim:
    """What one contract of one rights holder brought into a model.

    Attributes:
        documents: texts that training could read: documents, or conversations.
        bytes: of them, in UTF-8, as kept.
        trained: tokens read from them in training, every pass counted; None where no record says.
        trained_by_language: the same by language code.
    """

    rights_holder: str
    contract: str
    documents: int
    bytes: int
    trained: Fraction | None
    trained_by_language: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """What a person decided: answers.toml [contracts].

    Attributes:
        fund_cents: what is paid out; None where nobody said.
        rule: a name of `RULES`.
        floor_cents: every rights holder gets at least this.
        cap_cents: and at most this; None for no cap.
        warn_days: a contract that ends within so many days of the release is named.
    """

    fund_cents: int | None = None
    rule: str = "tokens"
    floor_cents: int = 0
    cap_cents: int | None = None
    warn_days: int = 90


Rule = Callable[[Sequence[Claim], Mapping[str, int]], list[Fraction]]


def equal(claims: Sequence[Claim], supply: Mapping[str, int]) -> list[Fraction]:
    """Every rights holder the same; one with several contracts gets it in equal parts."""
    contracts: dict[str, int] = {}
    for claim in claims:
        contracts[claim.rights_holder] = contracts.get(claim.rights_holder, 0) + 1
    return [Fraction(1, contracts[claim.rights_holder]) for claim in claims]


def by_tokens(claims: Sequence[Claim], supply: Mapping[str, int]) -> list[Fraction]:
    """In proportion to the tokens that training read, every pass counted.

    Raises:
        InputError: no record says how many tokens were read.
    """
    return [_trained(claim, "tokens") for claim in claims]


def by_documents(claims: Sequence[Claim], supply: Mapping[str, int]) -> list[Fraction]:
    """In proportion to the texts that were kept."""
    return [Fraction(claim.documents) for claim in claims]


def by_bytes(claims: Sequence[Claim], supply: Mapping[str, int]) -> list[Fraction]:
    """In proportion to the bytes that were kept."""
    return [Fraction(claim.bytes) for claim in claims]


def by_scarcity(claims: Sequence[Claim], supply: Mapping[str, int]) -> list[Fraction]:
    """Tokens read, each counted the more the less text there was in its language: times all text / text in it.

    Raises:
        InputError: no record says how many tokens were read, or in which language.
    """
    weights = []
    for claim in claims:
        _trained(claim, "scarcity")
        unknown = sorted(code for code in claim.trained_by_language if not supply.get(code))
        if unknown:
            raise InputError(
                f"shares: rule 'scarcity': no record says how much text there was in {', '.join(unknown)}; choose "
                "another rule."
            )
        parts = (tokens / supply[code] for code, tokens in claim.trained_by_language.items())
        weights.append(sum(parts, Fraction(0)) * sum(supply.values()))
    return weights


RULES: Mapping[str, Rule] = {
    "equal": equal,
    "tokens": by_tokens,
    "documents": by_documents,
    "bytes": by_bytes,
    "scarcity": by_scarcity,
}


def payout(claims: Sequence[Claim], supply: Mapping[str, int], terms: Terms) -> list[int]:
    """Cents for each claim, in the order of the claims; they sum to the fund.

    Args:
        claims: one for each rights holder and contract.
        supply: tokens of training text by language, of all sources.
        terms: with a fund.

    Raises:
        InputError: no fund or an unknown rule, a floor that the fund cannot pay, a cap that leaves money over, or a
            rule that needs what no record says.
    """
    if terms.rule not in RULES:
        raise InputError(f"shares: rule '{terms.rule}' is unknown; choose {', '.join(RULES)}.")
    if terms.fund_cents is None:
        raise InputError("shares: no fund is named; set fund in answers.toml [contracts], or give --fund EUR.")
    if not claims:
        raise InputError("shares: nothing was licensed, so nobody is there to pay; leave the fund out.")
    weights = RULES[terms.rule](claims, supply)
    holders = sorted({claim.rights_holder for claim in claims})
    own = {holder: [n for n, claim in enumerate(claims) if claim.rights_holder == holder] for holder in holders}
    totals = [sum((weights[n] for n in own[holder]), Fraction(0)) for holder in holders]
    cents = [0] * len(claims)
    exact = shared_out(terms.fund_cents, totals, floor=terms.floor_cents, cap=terms.cap_cents)
    for holder, whole in zip(holders, largest_remainder(terms.fund_cents, exact), strict=True):
        inside = [weights[n] for n in own[holder]]
        if not sum(inside):
            inside = [Fraction(1)] * len(inside)
        parts = [whole * weight / sum(inside) for weight in inside]
        for n, part in zip(own[holder], largest_remainder(whole, parts), strict=True):
            cents[n] = part
    return cents


def shared_out(fund: int, weights: Sequence[Fraction], *, floor: int = 0, cap: int | None = None) -> list[Fraction]:
    """Exact amounts in proportion to weights, none below `floor` or above `cap`, that sum to `fund`. In cents.

    Those who would fall outside are set to the bound, and the rest is shared out again among the others, until all
    fit. In each round only the side that is out by more is set, as one side can bring the other back in.

    Raises:
        InputError: floor above cap, more floors than fund, a cap that leaves money over, or no weight at all.
    """
    count = len(weights)
    if cap is not None and floor > cap:
        raise InputError(f"shares: the floor ({euros(floor)}) is above the cap ({euros(cap)}).")
    if floor * count > fund:
        raise InputError(f"shares: {count} floors of {euros(floor)} are more than the fund of {euros(fund)}.")
    if cap is not None and cap * count < fund:
        raise InputError(f"shares: {count} caps of {euros(cap)} leave part of the fund of {euros(fund)} over.")
    amounts: dict[int, Fraction] = {}
    while len(amounts) < count:
        free = [n for n in range(count) if n not in amounts]
        left, total = fund - sum(amounts.values()), sum(weights[n] for n in free)
        if not total:
            return _without_weight(amounts, free, Fraction(left), floor, fund)
        tried = {n: left * weights[n] / total for n in free}
        low = {n: Fraction(floor) for n in free if tried[n] < floor}
        high = {n: Fraction(cap) for n in free if cap is not None and tried[n] > cap}
        missing = sum(low[n] - tried[n] for n in low)
        over = sum(tried[n] - high[n] for n in high)
        amounts |= tried if missing == over == 0 else low if missing > over else high if over > missing else low | high
    return [amounts[n] for n in range(count)]


def largest_remainder(total: int, exact: Sequence[Fraction]) -> list[int]:
    """Whole numbers that sum to `total`: each rounded down, then one more for the largest remainders, first ones first.

    Raises:
        ValueError: the exact amounts do not sum to the total.
    """
    if sum(exact, Fraction(0)) != total:
        raise ValueError(f"amounts that sum to {sum(exact, Fraction(0))} cannot be rounded to {total}")
    whole = [amount.numerator // amount.denominator for amount in exact]
    order = sorted(range(len(exact)), key=lambda n: (whole[n] - exact[n], n))
    for n in order[: total - sum(whole)]:
        whole[n] += 1
    return whole


def euros(cents: int) -> str:
    """`1,234.50 EUR`."""
    return f"{cents // 100:,}.{cents % 100:02d} EUR"


def _without_weight(
    amounts: Mapping[int, Fraction], free: Sequence[int], left: Fraction, floor: int, fund: int
) -> list[Fraction]:
    """What those get of whom nothing was counted: the floor, and nothing above it."""
    if left != floor * len(free):
        raise InputError(
            f"shares: {euros(int(left))} of the fund of {euros(fund)} have no taker, as the rule counts nothing for "
            "the others; raise the cap, or choose another rule."
        )
    found = {**amounts, **{n: Fraction(floor) for n in free}}
    return [found[n] for n in sorted(found)]


def _trained(claim: Claim, rule: str) -> Fraction:
    if claim.trained is None:
        raise InputError(
            f"shares: rule '{rule}': no record says how many tokens of contract '{claim.contract}' were trained on; "
            "choose equal, documents or bytes."
        )
    return claim.trained
