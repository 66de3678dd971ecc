"""The gate on licences and contracts of the text, and on what else the records and the answers say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from gate_release import failures, spoilt, told
from licensed_store import SOURCES, ledger_of, make_store, write_dataset

from hanse.release.gate import audit as gate
from hanse.release.gate import checks as gate_checks
from hanse.release.gate.licences import judge
from hanse.store.stage import Store

EUROPE = {"MPL-2.0": "compatible", "CC-BY-4.0": "compatible", "CC0-1.0": "compatible", "CC-BY-SA-3.0": "compatible",
          "CC-BY-SA-4.0": "compatible", "EUPL-1.2": "conditional"}  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), EUROPE.items())
def test_the_text_of_the_europe_recipe_allows_its_licence(text, wanted):
    assert judge(text, "CC-BY-SA-4.0").verdict == wanted


def test_the_recipes_that_come_with_hanse_name_licences_that_their_text_allows():
    from hanse import recipe

    folder = Path(__file__).parents[2] / "recipes"
    for name, texts in (("atlas", ["Unicode-3.0"]), ("europe", list(EUROPE))):
        released = recipe.load(folder / f"{name}.toml", []).release.licence
        assert {judge(text, released).verdict for text in texts} <= {"compatible", "conditional"}, name


@pytest.mark.parametrize(
    ("text", "released", "wanted"),
    [
        ("Unicode-3.0", "Apache-2.0", "compatible"),
        ("CC-BY-SA-3.0", "Apache-2.0", "incompatible"),
        ("CC-BY-SA-4.0", "CC-BY-SA-3.0", "incompatible"),
        ("CC-BY-SA-4.0", "GPL-3.0-only", "compatible"),
        ("CC-BY-SA-3.0", "GPL-3.0-only", "incompatible"),
        ("CC-BY-SA-1.0", "CC-BY-SA-4.0", "incompatible"),
        ("EUPL-1.2", "Apache-2.0", "incompatible"),
        ("EUPL-1.2", "CC-BY-SA-3.0", "compatible"),
        ("EUPL-1.2", "EUPL-1.2", "compatible"),
        ("MPL-2.0", "Apache-2.0", "compatible"),
        ("CC-BY-NC-4.0", "CC-BY-SA-4.0", "incompatible"),
        ("CC-BY-NC-4.0", "CC-BY-NC-4.0", "compatible"),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", "incompatible"),
        ("CC-BY-NC-SA-4.0", "CC-BY-SA-4.0", "incompatible"),
        ("CC-BY-ND-4.0", "CC-BY-ND-4.0", "incompatible"),
        ("GPL-2.0-or-later", "GPL-3.0-only", "compatible"),
        ("GPL-2.0-only", "GPL-3.0-only", "incompatible"),
        ("GPL-3.0-only", "AGPL-3.0-only", "compatible"),
        ("AGPL-3.0-only", "GPL-3.0-only", "incompatible"),
        ("LGPL-3.0-only", "GPL-2.0-only", "incompatible"),
        ("OSL-3.0", "MIT", "incompatible"),
        ("LicenseRef-own", "MIT", "unknown"),
        ("", "MIT", "unknown"),
        ("MIT AND CC-BY-SA-4.0", "MIT", "incompatible"),
        ("MIT OR CC-BY-SA-4.0", "MIT", "compatible"),
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0 OR MIT", "incompatible"),
        ("(MIT", "MIT", "unknown"),
    ],
)
def test_the_matrix_answers_and_says_why(text, released, wanted):
    found = judge(text, released)
    assert found.verdict == wanted and found.why


@pytest.mark.parametrize(
    ("basis", "wanted"),
    [
        ("contract", "conditional"),
        ("public-domain", "compatible"),
        ("tdm-art-4", "conditional"),
        ("stated", "incompatible"),
    ],
)
def test_the_ground_decides_before_the_licence(basis, wanted):
    assert judge("CC-BY-ND-4.0", "MIT", basis=basis).verdict == wanted


def with_counts(**changes):
    def make(work):
        write_dataset()(work)
        counts = json.loads((work.folder / "counts.json").read_text())
        counts["groups"].append({**counts["groups"][-1], **changes})
        (work.folder / "counts.json").write_text(json.dumps(counts))

    return make


def test_share_alike_text_under_another_licence_is_red(tmp_path):
    ledger = spoilt(tmp_path, with_counts(licence="CC-BY-SA-4.0", licence_basis="stated", documents=7))
    (found,) = failures(gate_checks.licences(ledger))
    assert "7 texts under CC-BY-SA-4.0 (stated), released under CC0-1.0: share-alike" in found
    assert "dataset/toy/1 counts.json" in found
    assert failures(gate_checks.licences(replace(ledger, licence="CC-BY-SA-4.0"))) == []


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "CC-BY-ND-4.0", "LicenseRef-own"])
def test_text_that_may_not_be_used_so_is_red(tmp_path, licence):
    ledger = spoilt(tmp_path, with_counts(licence=licence, licence_basis="stated"))
    assert licence in failures(gate_checks.licences(ledger))[0]


def test_a_person_may_vouch_for_an_unknown_licence_but_not_against_a_known_one(tmp_path):
    ledger = spoilt(tmp_path, with_counts(licence="LicenseRef-own", licence_basis="stated"))
    said = {"contracts": {"licences": {"LicenseRef-own": "our own text, see file 12", "CC-BY-ND-4.0": "we like it"}}}
    found = list(gate_checks.licences(replace(ledger, answers=said)))
    assert failures(found) == [] and any("answers.toml says: our own text" in each for each in told(found, "warned"))
    other = spoilt(tmp_path / "b", with_counts(licence="CC-BY-ND-4.0", licence_basis="stated"))
    assert failures(gate_checks.licences(replace(other, answers=said)))


def test_a_continued_model_needs_its_licence_on_record(tmp_path):
    begun = ledger_of(make_store(tmp_path / "s", start=True), licence="Apache-2.0")
    assert "whose licence nobody named" in failures(gate_checks.licences(begun))[0]
    for licence, wanted in (("Apache-2.0", 0), ("CC-BY-NC-4.0", 1)):
        said = {"contracts": {"base_model_licence": licence}}
        assert len(failures(gate_checks.licences(replace(begun, answers=said)))) == wanted


def test_a_contract_that_ended_is_red_and_one_that_ends_soon_is_not(tmp_path):
    sources = [{**SOURCES[0], "contract_start": "2019-01-01", "contract_expiry": "2020-05-01"}, *SOURCES[1:]]
    ledger = ledger_of(make_store(tmp_path / "s", sources=sources))
    assert any("C-1 ended on 2020-05-01" in each for each in failures(gate_checks.contracts(ledger)))
    far = replace(ledger_of(make_store(tmp_path / "t")), answers={"contracts": {"warn_days": 40_000}})
    found = list(gate_checks.contracts(far))
    assert failures(found) == [] and len(told(found, "warned")) == 2


def test_a_claimed_language_without_text_or_figures_is_red(published):
    found = failures(gate_checks.languages(replace(published.ledger, languages=("da", "nb", "mt"))))
    assert any("no text to train on in: mt" in each for each in found)
    assert any("no figure in: mt" in each for each in found)
    assert failures(gate_checks.languages(replace(published.ledger, scores=published.ledger.scores[:1])))[0].endswith(
        "claimed, but no figure in: nb (evaluation/toy-chat/1)"
    )
    assert failures(gate_checks.languages(replace(published.ledger, languages=())))


def test_an_ancestor_that_was_changed_is_red(published, tmp_path):
    store, _, ledger = published
    copy = Store.open(shutil.copytree(store.root, tmp_path / "copy"))
    with (copy.root / "shards/toy/1/index.parquet").open("ab") as stream:
        stream.write(b"x")
    found = failures(gate_checks.ancestors(ledger_of(copy), copy))
    assert len(found) == 1 and "index.parquet changed" in found[0]
    shutil.rmtree(copy.root / "tokenizer/toy")
    assert failures(gate._done("ancestors", lambda: gate_checks.ancestors(ledger, copy)))


def test_unanswered_questions_and_contradictions_are_red(published):
    found = failures(gate_checks.answers(published.ledger))
    assert any("answers.toml provider.name" in each for each in found)
    contradicted = replace(published.ledger, answers={"data": {"uses_licensed_data": False}})
    assert any("uses_licensed_data" in each for each in failures(gate_checks.answers(contradicted)))
