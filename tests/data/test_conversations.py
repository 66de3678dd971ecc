"""Conversations are checked one by one; what is broken is quarantined with its reason, and the split repeats."""

import json
from types import SimpleNamespace

import pytest

from hanse.data import conversations
from hanse.errors import InputError
from hanse.recipe import Curate, Source

GOOD = {
    "language": "de",
    "licence": "CC-BY-4.0",
    "messages": [{"role": "user", "content": "Hallo"}, {"role": "assistant", "content": "Guten Tag"}],
}


def gather(tmp_path, rows, *, languages=("de",), share=1.0, **source):
    path = tmp_path / "talk.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    folder = tmp_path / "made"
    folder.mkdir()
    work = SimpleNamespace(folder=folder, note=lambda **facts: None)
    declared = Source(**{"name": "talk", "kind": "conversations", "path": str(path), "heldout_share": 0.0, **source})
    conversations.gather(work, [declared], Curate(max_quarantine_share=share), languages=languages, seed=0)
    return {name: list(conversations.read(folder / f"{name}.jsonl")) for name in ("train", "heldout", "quarantine")}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not-json"),
        ("[]", "not-an-object"),
        ({**GOOD, "licence": None}, "licence-missing"),
        ({**GOOD, "licence": "CC-BY-NC-4.0"}, "licence-not-allowed"),
        ({**GOOD, "reservation": "reserved"}, "rights-reserved"),
        ({**GOOD, "messages": []}, "messages-missing"),
        ({**GOOD, "messages": [{"role": "wizard", "content": "x"}]}, "role-unknown"),
        ({**GOOD, "messages": GOOD["messages"][:1]}, "no-answer"),
        ({**GOOD, "messages": [{"role": "assistant", "content": " "}]}, "content-missing"),
        ({**GOOD, "messages": [{"role": "assistant", "content": "a\0"}]}, "nul-character"),
        ({**GOOD, "messages": [{"role": "assistant", "content": "\ud800"}]}, "lone-surrogate"),
        ({**GOOD, "language": None}, "language-missing"),
        ({**GOOD, "split": "test"}, "split-unknown"),
        ({**GOOD, "answer": "Guten Tag"}, "task-missing"),
    ],
)
def test_broken_conversation_is_quarantined_with_its_reason_and_line(tmp_path, row, reason):
    made = gather(tmp_path, [GOOD, row])
    assert [(q["line"], q["reason"]) for q in made["quarantine"]] == [(2, reason)]
    assert len(made["train"]) == 1


def test_licence_expression_and_other_spelling_are_understood(tmp_path):
    rows = [{**GOOD, "licence": licence} for licence in ("cc-by-4.0", "CC-BY-4.0 OR CC-BY-NC-4.0")]
    assert len(gather(tmp_path, rows)["train"]) == 2


def test_source_in_a_record_does_not_hide_the_recipes_name(tmp_path):
    assert gather(tmp_path, [{**GOOD, "source": "elsewhere"}])["train"][0]["source"] == "talk"


def test_other_languages_are_left_out(tmp_path):
    made = gather(tmp_path, [GOOD, {**GOOD, "language": "fr"}])
    assert [row["language"] for row in made["train"]] == ["de"]


def test_too_many_broken_conversations_stop_the_run(tmp_path):
    with pytest.raises(InputError, match=r"talk.*1 of 2"):
        gather(tmp_path, [GOOD, "{"], share=0.01)


def test_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(InputError, match="no conversation to train on"):
        gather(tmp_path, [GOOD], languages=("fr",))


def test_split_repeats_and_follows_the_share(tmp_path):
    rows = [
        {**GOOD, "messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "ja"}]}
        for n in range(400)
    ]
    first, second = (gather(tmp_path / name, rows, heldout_share=0.25) for name in _folders(tmp_path))
    assert first == second
    assert 60 < len(first["heldout"]) < 140
    assert len(first["heldout"]) + len(first["train"]) == 400


def _folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        yield name
