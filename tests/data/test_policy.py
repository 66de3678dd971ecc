"""Policy: evidence and a case give a decision; and texts that are free by age."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data.rights import policy as policies
from hanse.data.rights.evidence import Evidence, Says, observed
from hanse.data.rights.policy import BasisRule, Case, Decision, Policy, PolicyFile, RobotsRule
from hanse.data.rights.public_domain import check, life
from hanse.data.rights.signals import SIGNALS
from hanse.errors import InputError

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "rights.md"
DAY = "2026-11-20"


def statement(kind: str, says: Says, *, seen: str = "2026-01-01", raw: str = "", place: str = "site") -> Evidence:
    """A piece of evidence."""
    if kind.startswith("robots") and not raw:
        raw = "User-agent: *"
    return observed(kind, says, raw, place=place, seen=seen, parser="test/1")


def load(tmp_path: Path, text: str = "") -> Policy:
    """A policy with changes."""
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


@pytest.fixture(scope="module")
def default() -> Policy:
    """The embedded policy."""
    return Policy.load()


OPEN, CLOSED = statement("robots.txt", "allowed"), statement("robots.txt", "reserved", raw="User-agent: GPTBot")
TORN = statement("rsl-robots", "unclear", raw="License: x")
STATED = Case("stated", day=DAY)


@pytest.mark.parametrize(
    ("case", "evidence", "reasons", "reservation"),
    [
        (STATED, [OPEN], (), "none"),
        (STATED, [CLOSED, OPEN], ("rights-reserved",), "reserved"),
        (STATED, [], ("reservation-unknown",), "unknown"),
        (STATED, [OPEN, TORN], ("reservation-unknown",), "unknown"),
        (Case("stated", is_licence_allowed=False), [OPEN], ("licence-not-allowed",), "none"),
        (Case("no such basis"), [OPEN], (), "none"),
        (Case("tdm-art-4", is_licence_allowed=False), [OPEN], (), "none"),
        (Case("tdm-art-4"), [], ("reservation-unknown", "evidence-missing"), "unknown"),
        (Case("tdm-art-4"), [statement("declared", "allowed")], ("evidence-missing",), "none"),
        (Case("tdm-art-3"), [OPEN], ("research-only",), "none"),
        (Case("contract", day=DAY, contract_start="2026-01-01", contract_end="2026-12-31"), [OPEN], (), "none"),
        (Case("contract", day=DAY, contract_start=DAY, contract_end=DAY), [OPEN], (), "none"),
        (Case("contract", day="2027-01-01", contract_start="2026-01-01", contract_end="2026-12-31"), [OPEN],
         ("contract-not-in-force",), "none"),
        (Case("contract", day=DAY, contract_start="2026-01-01"), [OPEN], ("contract-dates-missing",), "none"),
        (Case("public-domain", public_domain="clear"), [OPEN], (), "none"),
        (Case("public-domain", public_domain="not-clear"), [OPEN], ("public-domain-not-clear",), "none"),
        (Case("public-domain"), [OPEN], ("public-domain-unknown",), "none"),
        (Case("generated"), [CLOSED], (), "reserved"),
    ],
)  # fmt: skip
def test_what_each_basis_needs(
    default: Policy, case: Case, evidence: list[Evidence], reasons: tuple[str, ...], reservation: str
) -> None:
    decision = default.decide(case, evidence)
    assert decision.reasons == reasons
    assert decision.outcome == ("refused" if reasons else "permitted")
    assert decision.reservation == reservation


def test_a_decision_names_the_statements_that_it_rests_on(default: Policy) -> None:
    assert default.decide(STATED, [CLOSED, OPEN, TORN]).evidence == (CLOSED.id,)
    assert default.decide(STATED, [OPEN]).evidence == (OPEN.id,)


def test_only_agents_that_count_reserve(tmp_path: Path) -> None:
    searching = statement("robots.txt", "reserved", raw="User-agent: OAI-SearchBot\nDisallow: /")
    assert Policy.load().decide(STATED, [OPEN, searching]).outcome == "permitted"
    wider = load(tmp_path, '[robots]\nalso = ["oai-searchbot"]\n')
    assert wider.decide(STATED, [OPEN, searching]).reasons == ("rights-reserved",)
    named = load(tmp_path, '[robots]\npurposes = ["training"]\nexcept = ["GPTBot"]\n')
    everybody = statement("robots.txt", "reserved")
    declared = statement("declared", "allowed")
    assert named.decide(STATED, [everybody, CLOSED, declared]).outcome == "permitted"


def test_a_signal_that_is_not_listed_has_no_effect(tmp_path: Path) -> None:
    narrow = load(tmp_path, 'signals = ["declared"]\n')
    assert narrow.decide(STATED, [CLOSED, statement("declared", "allowed")]).outcome == "permitted"


def test_the_newest_statement_can_lift_an_older_reservation_if_the_policy_says_so(tmp_path: Path) -> None:
    old = statement("robots.txt", "reserved", seen="2024-01-01")
    new = statement("robots.txt", "allowed", seen="2026-01-01")
    broken = statement("robots.txt", "unclear", seen="2026-06-01")
    undated = statement("robots.txt", "reserved", seen="")
    newest = load(tmp_path, 'on_conflict = "newest"\non_unclear = "ignored"\n')
    assert Policy.load().decide(STATED, [old, new]).reservation == "reserved"
    assert newest.decide(STATED, [old, new]).reservation == "none"
    assert newest.decide(STATED, [old, broken]).reservation == "reserved"
    assert newest.decide(STATED, [new, undated]).reservation == "reserved"
    elsewhere = statement("robots.txt", "reserved", seen="2020-01-01", place="another file")
    assert newest.decide(STATED, [new, elsewhere]).reservation == "reserved"


def test_a_statement_from_the_future_is_unclear(default: Policy) -> None:
    later = statement("declared", "allowed", seen="2026-11-21")
    assert default.decide(STATED, [later]).reservation == "unknown"
    assert default.decide(Case("stated", day="2026-11-21"), [later]).reservation == "none"


def test_unclear_statements_can_count_as_reservations_or_not_at_all(tmp_path: Path) -> None:
    assert load(tmp_path, 'on_unclear = "reserved"').decide(STATED, [OPEN, TORN]).reservation == "reserved"
    assert load(tmp_path, 'on_unclear = "ignored"').decide(STATED, [OPEN, TORN]).reservation == "none"


def test_the_recipe_decides_about_the_unknown_but_not_for_text_mining(tmp_path: Path) -> None:
    keep = Policy.load(on_unknown="keep")
    assert keep.decide(STATED, []).outcome == "permitted"
    assert keep.decide(Case("tdm-art-4"), [OPEN, TORN]).reasons == ("reservation-unknown",)
    assert Policy.load(on_unknown="drop").decide(STATED, []).outcome == "refused"


def test_a_licence_to_everybody_outweighs_an_opt_out_only_if_the_policy_says_so(tmp_path: Path) -> None:
    lenient = load(tmp_path, '[basis.stated]\nreservation = "ignored"\n')
    assert lenient.decide(STATED, [CLOSED]).outcome == "permitted"
    assert lenient.decide(Case("detected"), [CLOSED]).outcome == "refused"


def test_research_and_jurisdiction(tmp_path: Path) -> None:
    ours = load(tmp_path, "[organisation]\nis_research = true\n[basis.tdm-art-3]\njurisdictions = ['EU', 'NO']\n")
    for place, outcome in {
        "DE": "permitted",
        "no": "permitted",
        "EU": "permitted",
        "US": "refused",
        "": "refused",
    }.items():
        assert ours.decide(Case("tdm-art-3", jurisdiction=place), [OPEN]).outcome == outcome


def test_a_label_on_a_protected_text_is_flagged(default: Policy) -> None:
    decision = default.decide(Case("stated", public_domain="not-clear"), [OPEN])
    assert (decision.outcome, decision.flags) == ("permitted", ("label-not-clearance",))
    assert default.decide(Case("stated", public_domain="clear"), [OPEN]).flags == ()
    assert default.decide(Case("contract", public_domain="not-clear"), [OPEN]).flags == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on_unknown = 'perhaps'", "on_unknown"),
        ("on_unknwon = 'drop'", "on_unknwon: unknown key"),
        ("signals = ['robots.text']", "Did you mean robots.txt"),
        ("[robots]\nalso = ['GPTBott']", "no such agent"),
        ("[basis.stated]\npermitted = true", "basis.stated.permitted"),
        ("[basis.tdm-art-5]\npermit = true", "tdm-art-5"),
        ("robots = 3", "robots"),
        ("robots =", "not valid TOML"),
        ("\ud800", "not UTF-8"),
    ],
)
def test_a_wrong_policy_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Policy.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        Policy.load(tmp_path / "nowhere.toml")


def test_the_digest_follows_the_meaning_not_the_spelling(tmp_path: Path) -> None:
    assert load(tmp_path, "# the same\non_unknown = 'drop'\n").digest == Policy.load().digest
    assert (
        load(tmp_path, "on_unknown = 'keep'\n").digest == Policy.load(on_unknown="keep").digest != Policy.load().digest
    )


def test_the_default_counts_every_signal_of_the_table(default: Policy) -> None:
    assert default.file.signals == tuple(dict.fromkeys(default.file.signals))
    assert set(default.file.signals) == {signal.kind for signal in SIGNALS}


def test_the_page_explains_every_key_of_the_policy() -> None:
    page = DOCS.read_text(encoding="utf-8")
    keys = [
        field.alias or name
        for model in (PolicyFile, RobotsRule, BasisRule)
        for name, field in model.model_fields.items()
    ]
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, "docs/rights.md", "exec"), {})
    assert capsys.readouterr().out == example.rpartition("# ")[2]


# properties

EVIDENCE = st.builds(
    statement,
    st.sampled_from(["robots.txt", "tdmrep-file", "declared", "rsl-robots", "robots-meta"]),
    st.sampled_from(["allowed", "reserved", "unclear"]),
    seen=st.sampled_from(["", "2024-01-01", "2025-01-01", DAY, "2027-01-01"]),
    raw=st.sampled_from(["User-agent: *", "User-agent: GPTBot", "User-agent: OAI-SearchBot", "noai"]),
    place=st.sampled_from(["site", "page"]),
)
CASES = st.builds(
    Case,
    st.sampled_from([*policies.Basis.__args__, "nonsense"]),  # type: ignore[attr-defined]
    is_licence_allowed=st.booleans(),
    day=st.sampled_from(["", DAY]),
    contract_start=st.sampled_from(["", "2020-01-01"]),
    contract_end=st.sampled_from(["", "2030-01-01"]),
    public_domain=st.sampled_from(["", "clear", "unknown", "not-clear"]),
)


@pytest.fixture(scope="module")
def all_policies(tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    """Every combination of the keys that weigh evidence."""
    folder = tmp_path_factory.mktemp("policies")
    return [
        load(folder, f"on_conflict = '{conflict}'\non_unclear = '{unclear}'\non_unknown = '{unknown}'\n")
        for conflict in ("most-restrictive", "newest")
        for unclear in ("unknown", "reserved", "ignored")
        for unknown in ("keep", "drop")
    ]


@given(CASES, st.lists(EVIDENCE, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_evidence_makes_no_difference(
    all_policies: list[Policy], case: Case, evidence: list[Evidence], random: object
) -> None:
    shuffled = [*evidence, *evidence[:1]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for policy in all_policies:
        policies._decide.cache_clear()
        first = policy.decide(case, evidence)
        policies._decide.cache_clear()
        assert policy.decide(case, shuffled) == first


@given(CASES, st.lists(EVIDENCE, max_size=6), EVIDENCE)
def test_one_more_reservation_never_permits(
    all_policies: list[Policy], case: Case, evidence: list[Evidence], more: Evidence
) -> None:
    reservation = statement(more.kind, "reserved", seen=more.seen, raw=more.raw, place=more.place)
    for policy in all_policies:
        before: Decision = policy.decide(case, evidence)
        after = policy.decide(case, [*evidence, reservation])
        assert not (before.outcome == "refused" and after.outcome == "permitted")
        assert set(before.reasons) - {"reservation-unknown"} <= set(after.reasons)


# public domain by age


@pytest.mark.parametrize(
    ("author", "dates"),
    [
        ("Forster, E. M. (1879-1970)", (1879, 1970)),
        ("Babits Mihály (1883–1941)", (1883, 1941)),
        ("Gissing, George (1857-1903).", (1857, 1903)),
        ("Eliot, George [pseud.] (1819-1880)", (1819, 1880)),
        ("Burgos y Seguí, Carmen de [Colombine] (1867-1932)", (1867, 1932)),
        ("West, Rebecca, 1892-1983", (1892, 1983)),
        ("Capuana, Luigi (?-?)", (None, None)),
        ("Fundescu, I. C. (1836-l904)", (1836, None)),
        ("Somebody (?-1904)", (None, 1904)),
        ("Somebody (-1904)", (None, 1904)),
        ("Somebody (1879-)", (1879, None)),
        ("Somebody (1850-1904?)", (1850, None)),
        ("Somebody († 1904)", (None, 1904)),
        ("Edition Foo-1900", (None, None)),
        ("A (1800-1850); B (1880-1960)", (1880, 1960)),
        ("A (1800-1850) et B (1880-1960)", (1880, 1960)),
        ("A (1800-1850); B", (None, None)),
        ("A (1800-1850) & B (1900-)", (1900, None)),
        ("", (None, None)),
    ],
)
def test_dates_in_the_name_of_an_author(author: str, dates: tuple[int | None, int | None]) -> None:
    assert life(author) == dates


@pytest.mark.parametrize(
    ("author", "died", "year", "jurisdiction", "outcome", "reason"),
    [
        ("Forster, E. M. (1879-1970)", None, 1910, "EU", "not-clear", "author-died-too-recently"),
        ("Zamacois, Eduardo", 1971, 1910, "ES", "not-clear", "author-died-too-recently"),
        ("Mann, Thomas (1875-1955)", None, 1901, "DE", "clear", "author-died-long-ago"),
        ("Somebody (1880-1956)", None, 1901, "DE", "not-clear", "author-died-too-recently"),
        ("Somebody (1880-1950)", None, 1901, "ES", "not-clear", "author-died-too-recently"),
        ("Somebody (1880-1945)", None, 1901, "ES", "clear", "author-died-long-ago"),
        ("Saint-Exupéry (1900-1944)", None, 1943, "FR", "unknown", "term-may-be-longer"),
        ("Saint-Exupéry (1900-1944)", None, 1943, "BE", "clear", "author-died-long-ago"),
        ("Somebody (1880-1945)", 1960, 1901, "EU", "not-clear", "author-died-too-recently"),
        ("Capuana, Luigi (?-?)", None, 1892, "EU", "unknown", "author-death-unknown"),
        ("Somebody (1780-)", None, 1820, "EU", "clear", "author-born-long-ago"),
        ("Somebody (1880-)", None, 1920, "EU", "unknown", "author-death-unknown"),
        ("Somebody (1880-2050)", None, 1920, "EU", "unknown", "author-dates-impossible"),
        ("Letters (1914-1918)", None, 1920, "EU", "unknown", "author-dates-impossible"),
        ("Anonymous", None, 1900, "EU", "clear", "anonymous-published-long-ago"),
        ("[Anonyme]", None, 1990, "EU", "not-clear", "anonymous-published-too-recently"),
        ("Anonymous", None, None, "EU", "unknown", "anonymous-without-year"),
        (None, None, 1700, "EU", "unknown", "author-unknown"),
        ("Somebody (1800-1850)", None, 1820, "US", "unknown", "jurisdiction-not-in-table"),
    ],
)
def test_free_by_age(
    author: str | None, died: int | None, year: int | None, jurisdiction: str, outcome: str, reason: str
) -> None:
    found = check(author=author, year=year, author_died=died, jurisdiction=jurisdiction, reference_year=2026)
    assert (found.outcome, found.reason) == (outcome, reason)


def test_the_term_ends_with_the_year() -> None:
    for reference_year, outcome in ((2025, "not-clear"), (2026, "clear")):
        found = check(author=None, year=1901, author_died=1955, reference_year=reference_year)
        assert (found.outcome, found.free_from) == (outcome, 2026)


@given(st.text(max_size=60), st.integers(-10_000, 10_000), st.none() | st.integers(-10_000, 10_000))
def test_no_author_raises(author: str, year: int, died: int | None) -> None:
    found = check(author=author, year=year, author_died=died, reference_year=2026)
    assert found.outcome != "clear" or (found.free_from or 0) <= 2026


def test_novels_of_the_corpus_are_free_or_their_authors_death_is_unknown() -> None:
    paths = sorted(CORPUS.glob("eltec.*.jsonl.gz"))
    if not paths:
        pytest.skip("the corpus of novels is not here")
    outcomes: Counter[str] = Counter()
    for path in paths[:4]:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                found = check(
                    author=row["author"], year=row["year"], author_died=row["extra"]["author_died"], reference_year=2026
                )
                outcomes[found.outcome] += 1
    assert outcomes["clear"] > 500
    assert not outcomes["not-clear"]
