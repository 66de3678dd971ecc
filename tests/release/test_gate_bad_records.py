"""The gate on records that cannot be trusted, licences in other spellings, and text that says little about itself."""

import json
import subprocess
import sys
from dataclasses import replace

import licensed_store
import pytest
from compute_ledger import edited
from gate_release import failures
from licensed_store import ROWS, ledger_of, make_store, write_dataset

from hanse.errors import InputError
from hanse.release.folder import collect_ancestors
from hanse.release.gate import audit as gate
from hanse.release.gate import checks, training_text
from hanse.release.gate import files as gate_files
from hanse.release.gate import model as gate_model
from hanse.release.gate.licences import judge
from hanse.store.digest import RECORD
from hanse.store.graph import lineage


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def edit(store, ref, change):
    """Change a record by hand."""
    path = store.find(ref).path / RECORD
    told = json.loads(path.read_text())
    change(told["predicate"])
    path.write_text(json.dumps(told, indent=1) + "\n")


def test_a_file_that_was_edited_by_hand_is_red_and_the_other_checks_go_on(store, tmp_path, monkeypatch):
    path = store.find("dataset/toy").path / "counts.json"
    counts = json.loads(path.read_text())
    path.write_text(json.dumps({"kept": counts["kept"]}))
    monkeypatch.setattr(gate_files, "loads", lambda folder, ledger: iter(()))
    (tmp_path / "release").mkdir()
    found = gate.audit(tmp_path / "release", ledger_of(store), store=store)
    red = [each for each in failures(found) if each.startswith(("licences", "languages"))]
    assert len(red) == 2 and all("not as it was written (KeyError: 'groups')" in each for each in red)
    assert {"duplicates", "personal data", "withdrawals"} <= {each.check for each in found}
    with pytest.raises(InputError, match="the gate is closed"):
        gate.require(found)


def no_end(told):
    del told["runDetails"]["metadata"]["finishedOn"]


def another_day(told):
    told["runDetails"]["metadata"]["startedOn"] = "yesterday"


def another_seed(told):
    told["buildDefinition"]["externalParameters"]["seed"] = 9


@pytest.mark.parametrize("change", [no_end, another_day, another_seed])
def test_a_record_that_was_edited_by_hand_makes_no_release_and_opens_no_gate(store, change):
    ledger = ledger_of(store)
    assert failures(checks.ancestors(ledger, store)) == []
    edit(store, "evaluation/toy-chat", change)
    changed = store.find("evaluation/toy-chat")
    with pytest.raises(InputError, match=r"evaluation/toy-chat/1: its step\.json was edited; it"):
        collect_ancestors(store, (changed,))
    with pytest.raises(InputError, match=r"step\.json was edited"):
        list(checks.ancestors(replace(ledger, evaluation=changed), store))


def test_figures_that_do_not_hold_together_are_warnings_with_both_of_them(store):
    ledger = edited(ledger_of(store), "model/toy-base/1", seconds=-5.0)
    found = [each for each in checks.answers(ledger) if each.outcome == "warned"]
    assert [(each.what, each.where) for each in found] == [
        ("seconds is -5.0, which cannot be; taken as not recorded", "model/toy-base/1 step.json seconds")
    ]


def test_a_clock_that_ran_backwards_stops_no_release(store):
    def early(told):
        told["runDetails"]["metadata"] |= {"startedOn": "2001-01-02T00:00:00Z", "finishedOn": "2001-01-01T00:00:00Z"}

    edit(store, "evaluation/toy-chat", early)
    ledger = ledger_of(store)
    assert failures(checks.ancestors(ledger, store)) == []
    assert ledger.made > "2001-01-01", "the newest of all ancestors, whichever that is"


def test_records_that_name_each_other_are_refused_and_end_the_walk(store):
    chat = store.find("model/toy-chat")
    named = {"name": chat.ref, "digest": {"sha256": chat.digest},
             "annotations": {"role": "model", "record": chat.record_digest}}  # fmt: skip
    edit(store, "model/toy-base", lambda told: told["buildDefinition"]["resolvedDependencies"].append(named))
    tops = (store.find("model/toy-chat"), store.find("evaluation/toy-chat"))
    with pytest.raises(InputError, match="model/toy-base/1: is not the one that was recorded"):
        collect_ancestors(store, tops)
    assert "model/toy-base/1  CHANGED" in lineage(store, tops[0]).text()


def test_a_record_that_names_itself_is_refused(store):
    chat = store.find("model/toy-chat")
    named = {"name": chat.ref, "digest": {"sha256": chat.digest}, "annotations": {"role": "model", "record": "0" * 64}}
    edit(store, "model/toy-chat", lambda told: told["buildDefinition"]["resolvedDependencies"].append(named))
    with pytest.raises(InputError, match=r"model/toy-chat/1: its step\.json was edited"):
        collect_ancestors(store, (store.find("model/toy-chat"),))


# --------------------------------------------------------------------------- licences


@pytest.mark.parametrize(
    ("text", "released", "wanted"),
    [
        ("cc-by-4.0", "mit", "compatible"),
        (" MIT ", "Apache-2.0", "compatible"),
        ("cc-by-nc-sa-4.0", "CC-BY-SA-4.0", "incompatible"),
        ("CC-BY-SA-3.0-DE", "CC-BY-SA-4.0", "compatible"),
        ("CC-BY-ND-3.0-IGO", "CC-BY-4.0", "incompatible"),
        ("GPL-2.0", "GPL-2.0-only", "compatible"),
        ("GPL-2.0+", "GPL-3.0-only", "compatible"),
        ("Apache 2.0", "Apache-2.0", "unknown"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0", "unknown"),
        ("https://creativecommons.org/licenses/by/4.0/", "MIT", "unknown"),
        ("NOASSERTION", "MIT", "unknown"),
        ("MIT OR", "MIT", "unknown"),
        ("MIT" + " AND MIT" * 1000, "MIT", "unknown"),
        ("\x00", "MIT", "unknown"),
    ],
)
def test_other_spellings_are_understood_or_unknown_and_never_let_pass(text, released, wanted):
    assert judge(text, released).verdict == wanted


def test_a_release_without_a_licence_is_allowed_by_none():
    assert judge("CC0-1.0", " ").verdict == judge("", "", basis="public-domain").verdict == "unknown"


@pytest.mark.parametrize("licence", ["", "LicenseRef-own", "no licence at all", "NONE"])
def test_what_the_matrix_does_not_know_is_not_allowed_by_being_the_same(licence):
    assert judge(licence, licence).verdict == "unknown"


@pytest.mark.parametrize(
    ("text", "released", "wanted"),
    [
        ("GPL-3.0-only", "GPL-3.0-or-later", "incompatible"),
        ("GPL-2.0-only", "GPL-2.0-or-later", "incompatible"),
        ("GPL-3.0-or-later", "GPL-3.0-or-later", "compatible"),
        ("GPL-3.0-or-later", "GPL-3.0-only", "compatible"),
        ("GPL-3.0-only", "AGPL-3.0-only", "compatible"),
        ("GPL-3.0-only", "AGPL-3.0-or-later", "incompatible"),
        ("AGPL-3.0-only", "AGPL-3.0-or-later", "incompatible"),
        ("LGPL-2.1-only", "LGPL-2.1-or-later", "incompatible"),
        ("LGPL-2.1-only", "GPL-2.0-or-later", "compatible"),  # LGPL 2.1, section 3: or any newer version
    ],
)
def test_one_version_alone_is_not_given_away_as_that_or_a_later_one(text, released, wanted):
    assert judge(text, released).verdict == wanted


# --------------------------------------------------------------------------- text


def test_documents_without_a_language_count_for_none_and_stop_no_check(tmp_path):
    rows = [*ROWS, (None, "laws", None, 70, 10, "train", [])]
    store = make_store(tmp_path / "s", dataset=write_dataset(rows, texts={len(ROWS): "Ring 112 or write to a@b.dk"}))
    ledger = ledger_of(store)
    assert failures(checks.languages(ledger)) == []
    assert failures(checks.languages(replace(ledger, languages=("da", "None")))) != []
    (red,) = failures(training_text.personal_data(ledger))
    assert f"{len(ROWS):032x}" in red and "a@b.dk" not in red


def test_a_model_behind_which_no_text_is_on_record_does_not_pass(store):
    ledger = ledger_of(store)
    bare = replace(ledger, ancestors=tuple(each for each in ledger.ancestors if each.kind == "model"))
    assert failures(training_text.personal_data(bare)) == ["personal data: no record names any text (model/toy-chat/1)"]
    assert failures(checks.licences(replace(bare, credits=[]))) == [
        "licences: no record names a licence of any text ()"
    ]
    assert failures(checks.languages(bare)) != []


def test_personal_data_in_conversations_is_a_warning_that_does_not_print_it(tmp_path, monkeypatch):
    whole = licensed_store.write_conversations

    def with_an_address(work):
        whole(work)
        path = work.folder / "train.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[1]["messages"][1]["content"] = "Write to ann.other@havnen.dk."
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert not [each for each in training_text.personal_data(ledger_of(make_store(tmp_path / "plain")))
                if each.outcome != "passed"]  # fmt: skip
    monkeypatch.setattr(licensed_store, "write_conversations", with_an_address)
    found = list(training_text.personal_data(ledger_of(make_store(tmp_path / "s"))))
    (warned,) = [each for each in found if each.outcome == "warned"]
    assert warned.what.startswith("1 of 3 sampled conversations hold 1 email")
    assert warned.where == "conversations/toy/1 train-1"
    assert "havnen" not in gate.text(found)


def test_long_conversations_are_sampled_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(training_text, "SAMPLED", 2)
    talk = ledger_of(make_store(tmp_path / "s")).of_kind("conversations")[0]
    ((names, texts, codes),) = training_text._sampled_talk(talk)
    assert names == ["train-0", "train-2"] and codes == ["da", "da"] and texts[0] == "Hvem er du?\nEn model."


# --------------------------------------------------------------------------- the process that loads the model


def test_a_model_whose_context_no_question_fits_into_does_not_pass(sealed):
    pytest.importorskip("torch")
    problems, _ = gate_model.clean_answers(sealed, ["Hvem er du? " * 50])
    assert problems == [{"what": "no question leaves room for an answer in a context of 96 tokens"}]


TRIES = """
import socket, sys
from hanse.release.gate import model
model.same_logits = lambda folder: socket.create_connection(("127.0.0.1", 9))
model.round_trip = lambda folder: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
model.clean_answers = lambda folder, questions: socket.socket().connect_ex(("127.0.0.1", 9))
sys.argv = ["model", ".", "[]"]
model.main()
"""


def test_a_library_that_tries_to_connect_is_red():
    done = subprocess.run([sys.executable, "-c", TRIES], capture_output=True, text=True, check=True)
    for found in json.loads(done.stdout).values():
        assert "a library tried to open a connection" in found["problems"][0]["what"]
