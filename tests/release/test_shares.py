"""What licensed text brought in, what it pays, and contracts that ended: counted by hand, and cents that add up."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from licensed_store import SOURCES, TALK, ledger_of, make_store, write_conversations
from toy_release import publish

from hanse import cli
from hanse.console import Console
from hanse.errors import InputError
from hanse.recipe import Release
from hanse.release.papers import render
from hanse.release.shares import paper as board
from hanse.release.shares.licensed import concerns, shares
from hanse.release.shares.payout import RULES, Claim, Terms, largest_remainder, payout, shared_out
from hanse.store.stage import Store


@pytest.fixture(scope="module")
def found(licensed_ledger):
    return shares(licensed_ledger.ancestors)


def changed(tmp_path, **changes):
    """A store whose first source says something else."""
    return make_store(tmp_path / "other", sources=[{**SOURCES[0], **changes}, *SOURCES[1:]])


# --------------------------------------------------------------------------- what was counted


def test_documents_bytes_tokens_and_passes_are_those_counted_by_hand(found):
    by_hand = {
        # da 100 tokens x (1.5 + 0.5) + nb 50 tokens x (2 + 0); the validation document does not count
        ("Daily Press", "C-1"): (2, 600, 150, Fraction(300)),
        # nb, 0.25 + 0.5 passes, whatever the licences within the stream
        ("Publisher A", "C-2"): (1, 300, 80, Fraction(60)),
        ("Publisher B", "C-2"): (1, 500, 120, Fraction(90)),
    }
    counted = {
        (each.claim.rights_holder, each.claim.contract): (
            each.claim.documents, each.claim.bytes, each.tokens, each.claim.trained,
        )
        for each in found.licensed
    }  # fmt: skip
    assert counted == by_hand
    assert found.supply == {"da": 350, "nb": 260} and found.trained == 1600


def test_every_figure_names_the_records_that_it_comes_from(found):
    for place in ("dataset/toy/1 step.json source.0", "dataset/toy/1 documents.parquet", "shards/toy/1 index.parquet",
                  "model/toy-base/1 mixture.json"):  # fmt: skip
        assert place in found.licensed[0].backed_by


def test_a_holder_named_by_the_source_stands_for_documents_that_name_none(tmp_path):
    from licensed_store import ROWS, write_dataset

    rows = [(row[0], row[1], None, *row[3:]) for row in ROWS]
    counted = shares(ledger_of(make_store(tmp_path / "s", dataset=write_dataset(rows))).ancestors)
    assert [each.claim.rights_holder for each in counted.licensed] == ["", "Daily Press"]


def test_licensed_conversations_share_the_tokens_of_the_step_by_bytes(tmp_path, monkeypatch):
    import licensed_store

    def write(work):
        write_conversations(work)
        rows = [json.loads(line) for line in (work.folder / "train.jsonl").read_text().splitlines()]
        rows[0]["rights_holder"] = "Forum"
        (work.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(licensed_store, "write_conversations", write)
    talk = [{**TALK[0], "obtained": "licensed", "contract": "T-9", "model": "", "rights_holder": "Talkers"}]
    counted = shares(ledger_of(make_store(tmp_path / "s", talk=talk)).ancestors)
    spoken = {each.claim.rights_holder: each.claim.trained for each in counted.licensed if each.claim.contract == "T-9"}
    assert spoken == {"Forum": Fraction(200), "Talkers": Fraction(400)}  # 600 tokens of the step, one text in three


def test_a_run_that_kept_no_mixture_is_not_guessed_at(licensed_store, tmp_path):
    copy = Store.open(shutil.copytree(licensed_store.root, tmp_path / "copy"))
    (copy.root / "model/toy-base/1/mixture.json").unlink()
    counted = shares(ledger_of(copy).ancestors)
    assert counted.licensed[0].claim.trained is None and counted.licensed[0].tokens == 150
    with pytest.raises(InputError, match="no record says how many tokens of contract 'C-1'"):
        payout(counted.claims, counted.supply, Terms(1000, "tokens"))
    assert payout(counted.claims, counted.supply, Terms(1000, "documents")) == [500, 250, 250]


# --------------------------------------------------------------------------- rules, floor, cap, cents


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("equal", [333334, 333333, 333333]),  # three holders
        ("tokens", [666667, 133333, 200000]),  # 300 : 60 : 90
        ("documents", [500000, 250000, 250000]),  # 2 : 1 : 1
        ("bytes", [428571, 214286, 357143]),  # 600 : 300 : 500
        # da counts 610/350, nb 610/260: (200/350 + 100/260) : 60/260 : 90/260
        ("scarcity", [623656, 150538, 225806]),
    ],
)
def test_each_rule_pays_what_hand_arithmetic_gives(found, rule, wanted):
    assert payout(found.claims, found.supply, Terms(1_000_000, rule)) == wanted


def test_a_holder_with_two_contracts_counts_once_in_equal_parts():
    claims = [Claim("A", "1", 1, 1, None), Claim("A", "2", 1, 1, None), Claim("B", "3", 1, 1, None)]
    assert payout(claims, {}, Terms(100, "equal")) == [25, 25, 50]


def test_floor_and_cap_bind_and_the_rest_is_shared_again(found):
    assert payout(found.claims, found.supply, Terms(1000, "tokens", floor_cents=250)) == [500, 250, 250]
    assert payout(found.claims, found.supply, Terms(1000, "tokens", cap_cents=400)) == [400, 240, 360]


def test_where_both_bounds_bind_the_side_that_is_out_by_more_is_set_first():
    assert shared_out(100, [Fraction(90), Fraction(6), Fraction(4)], floor=20, cap=50) == [50, 30, 20]
    assert shared_out(100, [Fraction(60), Fraction(39), Fraction(1)], floor=30, cap=45) == [40, 30, 30]


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(None), "no fund"),
        (Terms(100, "fair"), "unknown; choose equal, tokens"),
        (Terms(100, "equal", floor_cents=40), "3 floors of 0.40 EUR are more than the fund of 1.00 EUR"),
        (Terms(100, "equal", cap_cents=33), "3 caps of 0.33 EUR leave part of the fund"),
        (Terms(100, "equal", floor_cents=9, cap_cents=8), "above the cap"),
    ],
)
def test_terms_that_cannot_be_met_are_refused(found, terms, words):
    with pytest.raises(InputError, match=words):
        payout(found.claims, found.supply, terms)


def test_a_cap_that_leaves_money_for_those_without_a_token_is_refused():
    claims = [Claim("A", "1", 1, 1, Fraction(5)), Claim("B", "2", 1, 1, Fraction(0))]
    with pytest.raises(InputError, match=r"0.40 EUR of the fund of 1.00 EUR have no taker"):
        payout(claims, {}, Terms(100, "tokens", cap_cents=60))
    assert payout(claims, {}, Terms(100, "tokens", floor_cents=10)) == [90, 10]


AMOUNTS = st.lists(st.fractions(min_value=0, max_value=1000, max_denominator=97), min_size=1, max_size=8)


@given(AMOUNTS, st.integers(0, 10**9), st.integers(0, 10**5), st.integers(0, 10**7))
def test_cents_always_sum_to_the_fund_within_floor_and_cap(weights, fund, floor, room):
    cap = floor + room
    try:
        exact = shared_out(fund, weights, floor=floor, cap=cap)
    except InputError:
        impossible = floor * len(weights) > fund or cap * len(weights) < fund
        weightless = cap * sum(weight > 0 for weight in weights) + floor * sum(not weight for weight in weights) < fund
        assert impossible or weightless
        return
    cents = largest_remainder(fund, exact)
    assert sum(cents) == fund and all(floor <= each <= cap for each in cents)
    # Between the bounds amounts are in proportion; at a bound, nobody would be better served inside it.
    ratios = {amount / weight for amount, weight in zip(exact, weights, strict=True) if floor < amount < cap and weight}
    assert len(ratios) <= 1
    for ratio in ratios:
        for amount, weight in zip(exact, weights, strict=True):
            assert amount == min(max(weight * ratio, floor), cap)


@given(st.lists(st.fractions(min_value=0, max_value=50, max_denominator=60), min_size=1, max_size=9))
def test_rounding_moves_nobody_by_a_cent(amounts):
    total = sum(amounts)
    amounts.append(-(-total.numerator // total.denominator) - total)
    whole = largest_remainder(int(sum(amounts)), amounts)
    assert sum(whole) == sum(amounts) and all(abs(a - b) < 1 for a, b in zip(whole, amounts, strict=True))


def test_every_rule_is_a_pure_function_of_its_claims(found):
    for rule in RULES:
        first = payout(found.claims, found.supply, Terms(777, rule))
        backwards = payout(found.claims[::-1], found.supply, Terms(777, rule))
        assert sorted(first) == sorted(backwards) and sum(first) == 777


# --------------------------------------------------------------------------- contracts


def test_a_contract_in_force_raises_no_concern(licensed_ledger):
    assert concerns(licensed_ledger.ancestors, made="2030-01-01T00:00:00Z") == []


def test_a_contract_that_ended_before_training_is_named(tmp_path):
    spoilt = ledger_of(changed(tmp_path, contract_start="2019-01-01", contract_expiry="2020-05-01"))
    noted = concerns(spoilt.ancestors, made=spoilt.made)
    assert {each.kind for each in noted} == {"not-in-force", "expired"}
    assert all("C-1" in each.what and "2020-05-01" in each.what for each in noted)
    assert noted[0].source == "dataset/toy/1 step.json source.0.contract_expiry"


def test_a_contract_that_began_after_training_is_named(tmp_path):
    spoilt = ledger_of(changed(tmp_path, contract_start="2089-01-01"))
    (noted,) = concerns(spoilt.ancestors, made=spoilt.made)
    assert noted.kind == "not-in-force" and "begins on 2089-01-01" in noted.what


def test_days_count_from_the_release_and_never_from_the_clock(licensed_ledger):
    (soon,) = concerns(licensed_ledger.ancestors, made="2090-06-20T12:00:00Z", warn_days=10)
    assert soon.kind == "ends-soon" and "10 days after" in soon.what
    assert concerns(licensed_ledger.ancestors, made="2090-06-20T12:00:00Z", warn_days=9) == []
    assert {each.kind for each in concerns(licensed_ledger.ancestors, made="2091-01-01T00:00:00Z")} == {"expired"}


def test_a_contract_without_a_last_day_is_named(tmp_path):
    (noted,) = concerns(ledger_of(changed(tmp_path, contract_expiry=None)).ancestors, made="2030-01-01T00:00:00Z")
    assert noted.kind == "no-expiry"


@pytest.mark.parametrize("ended", [False, True])
def test_whoever_releases_text_of_an_ended_contract_is_told_of_a_draft_too(tmp_path, capsys, ended):
    dates = {"contract_expiry": "2020-05-01"} if ended else {}
    settings = Release(key=str(tmp_path / "key.pem"))
    built = publish(make_store(tmp_path / "store", sources=[{**SOURCES[0], **dates}, *SOURCES[1:]]), settings)
    noted = built.artifact.facts.get("contracts", [])
    assert bool(noted) == ended and all("contract C-1 ended on 2020-05-01" in each for each in noted)
    for each in (built, replace(built, state="unchanged")):
        Console().end(each)
        said = " ".join(capsys.readouterr().err.split())
        assert all(f"warning: {what}" in said for what in noted) and said.count("warning: ") == len(noted)


# --------------------------------------------------------------------------- answers, paper, verb


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"fond": 1}, "fond: unknown key"),
        ({"rule": "fair"}, "rule: 'fair' is unknown"),
        ({"fund": "much"}, "'much' is no amount"),
        ({"fund": -1}, "no amount"),
        ({"fund": 0.001}, "no amount"),
        ({"fund": True}, "no amount"),
        ({"fund": float("inf")}, "no amount"),
        ({"warn_days": 1.5}, "no number of days"),
    ],
)
def test_answers_that_do_not_fit_are_refused_with_their_key(said, words):
    with pytest.raises(InputError, match=words):
        board.terms({"contracts": said})


def test_answers_become_terms_in_cents():
    said = {"fund": 1000, "rule": "bytes", "floor": "10.50", "cap": 999.99, "warn_days": 7}
    assert board.terms({"contracts": said}) == Terms(100_000, "bytes", 1050, 99_999, 7)
    assert board.terms({}) == Terms()


def test_the_paper_shows_text_payout_and_contracts(licensed_store):
    said = {"contracts": {"fund": 1000, "rule": "tokens", "cap": 500}}
    paper = board.paper(ledger_of(licensed_store, answers=said))
    text = render.markdown(paper)
    for line in (
        "| Daily Press | C-1 | daily | 2 | 600 | 150 | 2.0000 | 300 | 66.67% | 18.75% |",
        "| Publisher A | C-2 | 200.00 EUR |",
        "| all | all | 1,000.00 EUR |",
        "| C-2 | Publisher B | 2020-01-01 |",
    ):
        assert line in text, (line, text)
    assert render.as_json(paper) == render.as_json(board.paper(ledger_of(licensed_store, answers=said)))


def test_without_a_fund_nothing_is_paid_and_the_paper_says_so(licensed_ledger):
    text = render.markdown(board.paper(licensed_ledger))
    assert "| 2.1 Fund | not recorded |" in text and "due" not in text


def test_a_release_without_licensed_text_says_not_applicable(tmp_path):
    free = ledger_of(make_store(tmp_path / "free", sources=SOURCES[2:]))
    assert "not applicable: no source" in render.markdown(board.paper(free))
    assert shares(free.ancestors).licensed == ()


@pytest.fixture(scope="module")
def released(licensed_store, tmp_path_factory):
    """A store with a release of the model; what stands in its folder is of no account here."""
    store = Store.open(shutil.copytree(licensed_store.root, tmp_path_factory.mktemp("released") / "store"))
    inputs = {"model": store.find("model/toy-chat"), "evaluation": store.find("evaluation/toy-chat")}
    write = lambda work: (work.folder / "README.md").write_text("x") and None  # noqa: E731
    store.build("release", "toy", "1", definition={}, inputs=inputs, make=write)
    return ["--store", str(store.root)]


def test_the_verb_prints_a_table_and_cents_that_sum_to_the_fund(released, capsys):
    assert cli.main(["shares", "toy", "--fund", "1000", *released]) == 0
    told = capsys.readouterr().out
    assert "Daily Press" in told and "666.67 EUR" in told and "1,000.00 EUR by rule 'tokens'" in told
    assert cli.main(["shares", "release/toy", "--fund", "999.99", "--rule", "equal", "--json", *released]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(row["due_cents"] for row in told["licensed"]) == 99_999 and told["rule"] == "equal"


def test_the_verb_takes_its_terms_from_a_file_of_answers(released, tmp_path, capsys):
    (tmp_path / "answers.toml").write_text('[contracts]\nfund = 100\nrule = "documents"\n')
    assert cli.main(["shares", "toy", "--answers", str(tmp_path / "answers.toml"), *released]) == 0
    assert "50.00 EUR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "release/nothing"),
        (["toy", "--fund", "much"], "--fund: 'much' is no amount"),
        (["toy", "--fund", "1", "--rule", "fair"], "--rule fair: is unknown"),
        (["model/toy-chat"], "is no release"),
    ],
)
def test_bad_input_to_the_verb_is_one_sentence(released, capsys, arguments, words):
    assert cli.main(["shares", *arguments, *released]) == 2
    assert words in capsys.readouterr().err
