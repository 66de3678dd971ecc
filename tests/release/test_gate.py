"""The gate as a whole: green for a clean release, red with the list of what is in the way, and how it is told."""

import shutil

import pytest
from gate_release import failures
from licensed_store import QUESTION

from hanse.errors import InputError
from hanse.release.gate import audit as gate
from hanse.release.gate import checks as gate_checks
from hanse.release.gate import files as gate_files
from hanse.release.gate import model as gate_model
from hanse.release.gate.audit import Finding

pytest.importorskip("transformers")


CHECKS = {
    "files", "export", "copies", "loads", "template", "reasoning tags", "licences", "contracts", "languages", "answers",
    "ancestors", "withdrawals", "contamination", "duplicates", "personal data", "signature",
}  # fmt: skip


def here(folder, questions):
    """What the process of its own says, said in this one: the libraries are loaded already."""
    looks = {
        "loads": lambda: gate_model.same_logits(folder),
        "template": lambda: gate_model.round_trip(folder),
        "answers": lambda: gate_model.clean_answers(folder, questions),
    }
    return {name: gate_model._tried(look) for name, look in looks.items()}


@pytest.fixture
def nobody_asked(monkeypatch):
    monkeypatch.setattr(gate_checks, "answers", lambda ledger: [Finding("answers", "passed", "nobody asked")])


def test_a_clean_release_is_green_and_every_check_says_what_it_saw(published, nobody_asked, monkeypatch):
    store, release, ledger = published
    monkeypatch.setattr(gate_files, "_examined", here)
    findings = gate.audit(release.path, ledger, store=store)
    assert failures(findings) == []
    assert {each.check for each in findings if each.outcome == "passed"} == CHECKS
    gate.require(findings)
    assert gate.text(findings).splitlines()[-1].startswith("gate: 0 failed, ")


def test_before_it_is_sealed_everything_but_the_signature_is_looked_at(published, unsealed, nobody_asked, monkeypatch):
    store, _, ledger = published
    monkeypatch.setattr(gate_files, "_examined", here)
    findings = gate.audit(unsealed, ledger, store=store)
    assert failures(findings) == [] and {each.check for each in findings} == CHECKS - {"signature"}


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(published, sealed):
    _, release, ledger = published
    assert gate_files._examined(release.path, [QUESTION]) == here(release.path, [QUESTION])
    (sealed / "model.safetensors").write_bytes(b"x")
    assert [each.outcome for each in gate_files.loads(sealed, ledger)] == ["failed", "passed", "failed"]


def test_what_the_other_process_does_not_say_is_red(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_files.sys, "executable", shutil.which("false"))
    with pytest.raises(InputError, match="ended with code 1: no word"):
        gate_files._examined(tmp_path, [])


def test_red_stops_with_the_list_and_the_worst_comes_first():
    findings = [Finding("a", "passed", "fine"), Finding("b", "warned", "hm"), Finding("c", "failed", "bad", "x.json")]
    assert gate.text(findings).splitlines()[0] == "failed  c: bad (x.json)"
    with pytest.raises(InputError, match=r"1 thing is in the way.*\n  failed  c: bad \(x.json\)") as refused:
        gate.require(findings)
    assert "hm" not in str(refused.value)
    gate.require(findings[:2])


def test_a_check_that_cannot_be_done_is_red(published, tmp_path, monkeypatch):
    store, _, ledger = published
    monkeypatch.setattr(gate_checks, "answers", lambda ledger: [])
    monkeypatch.setattr(gate_files, "loads", lambda folder, ledger: [])
    findings = gate.audit(tmp_path, ledger, store=store)
    assert {each.check for each in findings if each.outcome == "failed"} >= {"files", "export", "copies"}
