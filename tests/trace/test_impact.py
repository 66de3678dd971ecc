"""Impact: which datasets, shards, models and releases hold a document, and what each model saw of it."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from impact_lab import LENGTH, ImpactLab, books, letters, packed_of, prose, record, talk

from hanse.data.loader import Loader
from hanse.data.mixture import Mixture
from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.recipe import Pretrain, Tune
from hanse.store import record as records
from hanse.store.criteria import Criteria
from hanse.store.digest import RECORD, sha256_file
from hanse.store.stage import Artifact, Store
from hanse.trace import impact_command, impact_tree, matching, withdrawal
from hanse.trace.impact import Impact, Reached, impact

STAGES = [{"until": 0.4, "source_weight": {"books": 0.2}}, {"until": 1.0, "language_temperature": 2.0}]
PRETRAIN = {"sequence_length": LENGTH, "batch_tokens": 4 * LENGTH}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, of which the second is made without one of the authors; made once, copied by each test."""
    lab = ImpactLab(tmp_path_factory.mktemp("impact"))
    first = lab.recipe("1", {"books": books(), "letters": letters(), "talk": talk()})
    lab.data(first)
    base = lab.base(first, milestones=(1, 40))
    lab.release(lab.chat(first, base), "lab", shards=lab.store.find("shards/lab/1"))
    second = lab.recipe("2", {"books": books(("Storm", "Raabe")), "letters": letters(), "talk": talk()})
    lab.data(second)
    lab.release(lab.base(second), "lab", "2", shards=lab.store.find("shards/lab/2"))
    return lab.folder


@pytest.fixture
def lab(original: Path, tmp_path: Path) -> ImpactLab:
    shutil.copytree(original, tmp_path / "lab")
    return ImpactLab(tmp_path / "lab")


def ask(lab: ImpactLab, limit: int = 10, **criteria: str) -> Impact:
    return impact(lab.store, matching.by_criteria(Criteria(**criteria)), limit=limit)


def node(found: Impact, ref: str) -> Reached:
    return next(each for each in found.reached if each.ref == ref)


def command(lab: ImpactLab, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, default=lab.store.root)
    parser.add_argument("--json", action="store_true")
    impact_command.add_options(parser)
    return impact_command.run(parser.parse_args(arguments))


def edit(artifact: Artifact, change: Any) -> None:
    """Change a record by hand."""
    told = json.loads((artifact.path / RECORD).read_text())
    change(told["predicate"])
    (artifact.path / RECORD).write_text(json.dumps(told, indent=1) + "\n")


def replayed(model: Artifact, shards: Artifact, ids: set[str]) -> tuple[int, Counter[str]]:
    """Tokens of documents that a run predicted, and windows with a part of each, counted sample by sample."""
    definition = records.definition_of(model.record)
    settings, opened = Pretrain(**definition["pretrain"]), Shards.open(shards.path)
    mixture = Mixture.of(opened, settings)
    loader = Loader(opened, mixture, seed=definition["seed"])
    rows = [row for row in opened.index().to_pylist() if row["id"] in ids and row["split"] == "train"]
    trained, windows = 0, Counter[str]()
    for step in range(settings.steps):
        part = settings.ramp.at(step)
        places = loader.places(np.arange(part.start, part.stop))
        for number, window in zip(places.stream_N.tolist(), places.window_N.tolist(), strict=True):
            stream = mixture.streams[number]
            begin = stream.offset + window * LENGTH
            end = min(begin + LENGTH, stream.offset + stream.tokens)
            for row in rows:
                shared = min(end, row["offset"] + row["tokens"]) - max(begin, row["offset"])
                if row["language"] == stream.language and shared > 0:
                    trained += shared
                    windows[row["id"]] += 1
    return trained, windows


def ids_of(lab: ImpactLab, version: str, **criteria: str) -> dict[str, str | None]:
    """Split of each document that matches."""
    rows = matching.in_dataset(
        lab.store.find(f"dataset/lab/{version}"), matching.by_criteria(Criteria(**criteria)), limit=1000
    ).shown
    return {row["id"]: row["split"] for row in rows}


# --------------------------------------------------------------------------- who holds it


@pytest.mark.parametrize(
    ("criteria", "holding", "clean"),
    [
        ({"author": "Fontane"}, ["release/lab/1"], ["release/lab/2"]),
        ({"author": "Storm"}, ["release/lab/1", "release/lab/2"], []),
        ({"url": "https://fontane.example.org/3"}, ["release/lab/1"], ["release/lab/2"]),
        ({"domain": "fontane.example.org"}, ["release/lab/1"], ["release/lab/2"]),
        ({"source": "letters"}, ["release/lab/1", "release/lab/2"], []),
        ({"licence": "CC0-1.0"}, ["release/lab/1", "release/lab/2"], []),
        ({"author": "Fontane", "licence": "CC0-1.0"}, [], ["release/lab/1", "release/lab/2"]),
    ],
)
def test_impact_lists_exactly_the_releases_that_hold_it(
    lab: ImpactLab, criteria: dict[str, str], holding: list[str], clean: list[str]
) -> None:
    found = ask(lab, **criteria)
    assert (list(found.releases), list(found.clean), found.unclear) == (holding, clean, ())
    assert (found.gaps, found.warnings, found.notes) == ((), (), ())


def test_what_is_nowhere_reached_nothing(lab: ImpactLab, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(lab, author="Nobody")
    assert (found.reached, found.releases, found.gaps) == ((), (), ())
    assert set(found.looked_at) == {f"{kind}/lab/{n}" for kind in ("dataset", "conversations") for n in "12"}
    assert command(lab, "--author", "Nobody") == 0
    assert "nothing in 4 datasets and conversations matches." in capsys.readouterr().out


def test_the_way_goes_from_the_dataset_to_the_release_by_what_carries_text_or_weights(lab: ImpactLab) -> None:
    found = ask(lab, author="Fontane")
    assert [(each.ref, each.under, each.holds) for each in found.reached] == [
        ("dataset/lab/1", "", True),
        ("tokenizer/lab/1", "dataset/lab/1", False),
        ("shards/lab/1", "dataset/lab/1", True),
        ("model/lab-base/1", "shards/lab/1", True),
        ("model/lab-chat/1", "model/lab-base/1", True),
        ("evaluation/lab/1", "model/lab-chat/1", False),
        ("release/lab/1", "model/lab-chat/1", True),
    ]


def test_shards_are_named_with_files_tokens_and_their_share(lab: ImpactLab) -> None:
    found = ask(lab, author="Fontane")
    opened = Shards.open(lab.store.find("shards/lab/1").path)
    own = set(ids_of(lab, "1", author="Fontane"))
    rows = [row for row in opened.index().to_pylist() if row["id"] in own]
    train = [row for row in rows if row["split"] == "train"]
    lying = node(found, "shards/lab/1").lying
    assert lying is not None
    assert (lying.documents, lying.tokens) == (len(train), sum(row["tokens"] for row in train))
    assert lying.heldout_tokens == sum(row["tokens"] for row in rows) - lying.tokens
    whole = sum(counts["tokens"] for counts in opened.splits["train"].values())
    assert lying.share == lying.tokens / whole
    assert dict((name, tokens) for name, _, tokens in lying.files)["train/de.bin"] == lying.tokens


# --------------------------------------------------------------------------- what a model saw


@pytest.mark.parametrize(
    "settings",
    [
        {"budget_tokens": 40 * 4 * LENGTH},
        {"budget_tokens": 250 * 4 * LENGTH},
        {"budget_tokens": 90 * 4 * LENGTH, "source_weight": {"books": 3.0}, "language_temperature": 3.0},
        {"budget_tokens": 120 * 4 * LENGTH, "stage": STAGES},
        {"budget_tokens": 50 * 4 * LENGTH, "batch_ramp_share": 0.4, "goldfish": 4},
    ],
    ids=["part of an epoch", "several epochs", "weights and temperature", "two stages", "growing batch"],
)
@pytest.mark.parametrize("author", ["Fontane", "Kavafis"])
def test_the_exposure_in_a_record_is_what_a_replay_of_the_run_counts(
    lab: ImpactLab, settings: dict[str, Any], author: str
) -> None:
    recipe = lab.recipe("9", {"books": books(), "letters": letters(), "talk": talk()}, pretrain=PRETRAIN | settings)
    lab.data(recipe)
    model = lab.base(recipe)
    seen = node(ask(lab, author=author), model.ref).seen
    assert [each.of for each in seen] == [next(e.ref for e in records.inputs_of(model.record) if e.role == "shards")]
    shards = lab.store.find(seen[0].of)
    own = ids_of(lab, shards.version, author=author)
    trained, windows = replayed(model, shards, set(own))
    assert trained > 0
    exposure = seen[0].exposure
    assert exposure is not None
    assert exposure.trained_tokens == trained
    assert exposure.unseen == sum(split == "train" and not windows[name] for name, split in own.items())
    for name in list(own)[:4]:
        alone = node(ask(lab, id=name), model.ref).seen[0].exposure
        counted, _ = replayed(model, shards, {name})
        assert alone is not None and alone.trained_tokens == counted


def test_a_document_that_was_held_out_is_in_the_shards_and_in_no_model(lab: ImpactLab) -> None:
    held_out = [name for name, split in ids_of(lab, "1", source="books").items() if split == "validation"]
    second = ids_of(lab, "2", source="books")
    chosen = next(name for name in held_out if name not in second)
    found = ask(lab, id=chosen)
    lying = node(found, "shards/lab/1").lying
    assert lying is not None and lying.tokens == 0 and lying.heldout_tokens > 0
    assert node(found, "model/lab-base/1").holds is False
    assert (found.releases, found.clean) == ((), ("release/lab/1", "release/lab/2"))


def test_a_model_that_was_trained_beside_the_text_and_never_saw_it_is_named_and_its_release_is_clean(
    lab: ImpactLab,
) -> None:
    recipe = lab.recipe(
        "3", {"books": books(), "letters": letters(), "talk": talk()},
        pretrain=PRETRAIN | {"budget_tokens": 100 * LENGTH, "source_weight": {"letters": 0.0}},
    )  # fmt: skip
    lab.data(recipe)
    lab.release(lab.base(recipe), "germanonly")
    found = ask(lab, author="Kavafis")
    assert node(found, "model/lab-base/3").holds is False
    assert "never saw it" in node(found, "release/germanonly/1").how
    assert "release/germanonly/1" in found.clean
    assert set(found.releases) == {"release/lab/1", "release/lab/2"}


def test_checkpoints_are_before_and_after_the_first_sight(lab: ImpactLab) -> None:
    for name, split in ids_of(lab, "1", author="Fontane").items():
        seen = node(ask(lab, id=name), "model/lab-base/1").seen[0]
        if split == "train" and seen.exposure and seen.exposure.first and 1 < seen.exposure.first.step <= 40:
            break
    else:
        pytest.fail("no document is first seen between the two checkpoints")
    assert [kept.step for kept in seen.checkpoints] == [1, 40]
    assert seen.checkpoints[0].trained_tokens == 0
    assert seen.checkpoints[1].trained_tokens > 0


def test_a_document_that_a_dropped_step_alone_saw_did_not_move_the_weights(lab: ImpactLab) -> None:
    recipe = lab.recipe("1", {"books": books(), "letters": letters(), "talk": talk()})
    straight = node(ask(lab, author="Fontane"), "model/lab-base/1").seen[0].exposure
    assert straight is not None and straight.first is not None
    first = straight.first.step
    rows = [{"step": step, **({"skipped": "gradient spike"} if step == first else {})} for step in range(1, 51)]
    shutil.rmtree(lab.store.folder("model/lab-base/1"))
    lab.base(recipe, skipped=1, metrics=rows)
    later = node(ask(lab, author="Fontane"), "model/lab-base/1").seen[0]
    assert later.exposure is not None and later.exposure.first is not None and later.exposure.first.step > first
    assert later.exposure.trained_tokens < straight.trained_tokens
    shutil.rmtree(lab.store.folder("model/lab-base/1"))
    lab.base(recipe, skipped=1)
    unknown = node(ask(lab, author="Fontane"), "model/lab-base/1").seen[0]
    assert unknown.exposure == straight
    assert "upper bounds" in unknown.notes[0]


# --------------------------------------------------------------------------- conversations


def test_tuning_hands_on_conversations_and_the_base_is_left_alone(lab: ImpactLab) -> None:
    found = ask(lab, author="Quizmaster")
    assert [(each.ref, each.holds) for each in found.reached if each.kind == "model"] == [("model/lab-chat/1", True)]
    assert (found.releases, found.clean) == (("release/lab/1",), ("release/lab/2",))
    model, talking = lab.store.find("model/lab-chat/1"), lab.store.find("conversations/lab/1")
    settings = Tune(**records.definition_of(model.record)["tune"])
    packed = packed_of(settings, talking, model, seed=7)
    lines = [json.loads(line) for line in (talking.path / "train.jsonl").read_text().splitlines()]
    own = {number for number, line in enumerate(lines) if line["author"] == "Quizmaster"}
    counted = sum(place in own for step in range(packed.steps) for place in packed.shown_at(step))
    exposure = node(found, "model/lab-chat/1").seen[0].exposure
    assert exposure is not None and exposure.texts == len(own)
    alone = [node(ask(lab, id=lines[n]["id"]), "model/lab-chat/1").seen[0].exposure for n in sorted(own)]
    assert sum(round(each.times) for each in alone if each) == counted > 0
    assert exposure.trained_tokens == sum(each.trained_tokens for each in alone if each)


def test_conversations_that_tuning_had_to_leave_out_are_said(lab: ImpactLab) -> None:
    sources = {"books": books(), "letters": letters(), "talk": talk()}
    recipe = lab.recipe(
        "1", sources, tune=[{"source": "talk", "sequence_length": 32, "batch_tokens": 128, "epochs": 2.0}]
    )
    shutil.rmtree(lab.store.folder("model/lab-chat/1"))
    lab.chat(recipe, lab.store.find("model/lab-base/1"))
    seen = node(ask(lab, author="Quizmaster"), "model/lab-chat/1").seen[0]
    said = node(ask(lab, author="Quizmaster"), "conversations/lab/1").spoken
    assert seen.exposure is not None and said is not None
    left_out = said.conversations - seen.exposure.texts
    assert left_out > 0 and seen.notes[0].startswith(f"{left_out} of these conversations were left out")


def test_a_held_out_conversation_reaches_nothing(lab: ImpactLab) -> None:
    lines = (lab.store.find("conversations/lab/1").path / "heldout.jsonl").read_text().splitlines()
    assert lines
    assert ask(lab, id=json.loads(lines[0])["id"]).reached == ()


# --------------------------------------------------------------------------- copies, withdrawals, weights begun from


def test_a_document_that_was_dropped_as_a_copy_leads_to_the_text_that_stayed(lab: ImpactLab) -> None:
    copied = record("de", 0, "Freytag", id="copy/0", url="https://elsewhere.example/0")
    almost = {"text": prose("de", 101) + " Nachwort.", "url": "https://elsewhere.example/1"}
    near = record("de", 101, "Freytag", id="copy/1", **almost)
    recipe = lab.recipe("4", {"books": [*books(), copied, near], "letters": letters()})
    lab.data(recipe)
    lab.release(lab.base(recipe), "copied")
    found = ask(lab, author="Freytag")
    held = node(found, "dataset/lab/4").held
    assert held is not None and (held.documents, held.kept, held.copies) == (2, 0, 2)
    assert held.others == 2
    assert {row["author"] for row in held.others_shown} == {"Fontane", "Storm"}
    assert "release/copied/1" in found.releases
    lying = node(found, "shards/lab/4").lying
    assert lying is not None and lying.copies == lying.documents > 0


def test_the_same_words_that_another_dataset_took_under_another_name_are_found_by_their_id(lab: ImpactLab) -> None:
    renamed = [each | {"author": "Anonymous"} for each in books(("Fontane",))]
    recipe = lab.recipe("5", {"books": [*books(("Raabe",)), *renamed], "letters": letters()})
    lab.data(recipe)
    lab.release(lab.base(recipe), "renamed")
    found = ask(lab, author="Fontane")
    assert set(found.releases) == {"release/lab/1", "release/renamed/1"}
    assert "come another way" in node(found, "shards/lab/5").how


def test_a_withdrawal_says_what_to_look_for(lab: ImpactLab, capsys: pytest.CaptureFixture[str]) -> None:
    asked = withdrawal.draft({"author": "Fontane"}, reason="opt-out")
    own = ids_of(lab, "1", author="Fontane")
    made = withdrawal.write(lab.store.root, withdrawal.sealed(asked, own, {}, ()))
    by_withdrawal = impact(lab.store, matching.by_withdrawal(made))
    by_author = ask(lab, author="Fontane")
    assert by_withdrawal.releases == by_author.releases == ("release/lab/1",)
    assert [each.as_dict() for each in by_withdrawal.reached] == [each.as_dict() for each in by_author.reached]
    assert command(lab, "--withdrawal", made.id[:6]) == 0
    assert "releases that hold it: release/lab/1" in capsys.readouterr().out


def test_a_withdrawal_of_personal_data_is_followed_without_its_name_being_on_record(lab: ImpactLab) -> None:
    asked = withdrawal.draft({"author": "Fontane"}, reason="personal-data")
    own = ids_of(lab, "1", author="Fontane")
    made = withdrawal.write(lab.store.root, withdrawal.sealed(asked, own, {}, ()))
    found = impact(lab.store, matching.by_withdrawal(made))
    assert found.releases == ("release/lab/1",)
    assert "Fontane" not in found.wanted


def test_a_model_that_was_begun_from_the_weights_of_another_holds_what_that_one_holds(lab: ImpactLab) -> None:
    weights = sha256_file(lab.store.find("model/lab-chat/1").path / "model.safetensors")
    other = lab.made("model/grown/1", {"model": {"start": {"model.safetensors": weights}}})
    lab.release(other, "grown")
    strange = lab.made("model/strange/1", {"model": {"start": {"model.safetensors": "ab" * 32}}})
    lab.release(strange, "strange")
    found = ask(lab, author="Fontane")
    assert node(found, "model/grown/1").holds is True
    assert set(found.releases) == {"release/lab/1", "release/grown/1"}
    assert any(note.startswith("model/strange/1: was begun from weights") for note in found.notes)


def test_merged_weights_hold_what_any_of_their_parents_holds(lab: ImpactLab) -> None:
    parents = [lab.store.find(f"model/{name}") for name in ("lab-chat/1", "lab-base/2")]
    lab.release(lab.made("model/merged/1", one=parents[1], other=parents[0]), "merged")
    assert "release/merged/1" in ask(lab, author="Fontane").releases


def test_an_adapter_holds_what_the_model_it_was_made_for_holds_and_hands_it_on(lab: ImpactLab) -> None:
    for number, name in (("1", "lab-chat"), ("2", "lab-base")):
        adapter = lab.made(f"adapter/law/{number}", base=lab.store.find(f"model/{name}/{number}"))
        lab.release(lab.made(f"model/adapted/{number}", {"merge": {}}, adapter=adapter), "adapted", number)
    found = ask(lab, author="Fontane")
    assert node(found, "adapter/law/1").how == "made from model/lab-chat/1"
    assert node(found, "model/adapted/1").under == "adapter/law/1"
    assert set(found.releases) == {"release/lab/1", "release/adapted/1"}
    assert set(found.clean) == {"release/lab/2", "release/adapted/2"}
    assert "adapter/law/2" not in {each.ref for each in found.reached}


def test_a_release_beside_a_measurement_of_another_model_does_not_hold_what_that_one_holds(lab: ImpactLab) -> None:
    model, evaluation = lab.store.find("model/lab-base/2"), lab.store.find("evaluation/lab/1")
    lab.made("release/borrowed/1", model=model, evaluation=evaluation)
    assert "release/borrowed/1" in ask(lab, author="Fontane").clean


def test_a_training_that_runs_is_named_with_its_checkpoints(lab: ImpactLab) -> None:
    for step in (10, 20):
        (lab.store.root / f".work/model/lab-base/5/scratch-abc/step-{step:06d}").mkdir(parents=True)
    found = ask(lab, author="Fontane")
    assert found.unfinished == (("model/lab-base/5", ("step-000010", "step-000020")),)
    assert any("model/lab-base/5" in note for note in found.notes)


# --------------------------------------------------------------------------- records that cannot be trusted


def test_a_missing_ancestor_makes_the_answer_unclear_and_the_exit_code_one(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(lab.store.folder("shards/lab/1"))
    found = ask(lab, author="Fontane")
    assert (found.releases, found.unclear, found.clean) == ((), ("release/lab/1",), ("release/lab/2",))
    assert any(gap.startswith("shards/lab/1: is missing from the store") for gap in found.gaps)
    assert command(lab, "--author", "Fontane") == 1
    assert "releases of which it cannot be said: release/lab/1" in capsys.readouterr().out


def test_shards_whose_dataset_is_gone_are_still_found_by_the_id_of_a_document(lab: ImpactLab) -> None:
    name = next(name for name, split in ids_of(lab, "1", author="Fontane").items() if split == "train")
    shutil.rmtree(lab.store.folder("dataset/lab/1"))
    assert ask(lab, id=name).releases == ("release/lab/1",)
    by_author = ask(lab, author="Fontane")
    assert (by_author.releases, by_author.unclear) == ((), ("release/lab/1",))


def test_a_definition_that_was_edited_is_found_and_said(lab: ImpactLab) -> None:
    edit(lab.store.find("model/lab-base/1"), lambda told: told["buildDefinition"]["externalParameters"].update(seed=8))
    gaps = ask(lab, author="Fontane").gaps
    assert any(gap.startswith("model/lab-base/1: its step.json was edited") for gap in gaps)
    assert any("changed after model/lab-chat/1 was made from it" in gap for gap in gaps)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"tokens": 1}, "tokens is noted as 1"),
        ({"steps": 3}, "steps is noted as 3"),
        ({"rollbacks": [{"to_step": "step-000900", "at_step": 2, "skipped_data_steps": [1, 2]}]}, "rollback 1 of 1"),
    ],
)
def test_facts_that_contradict_the_definition_are_said_and_nothing_is_computed_from_them(
    lab: ImpactLab, facts: dict[str, Any], said: str
) -> None:
    edit(
        lab.store.find("model/lab-base/1"),
        lambda told: told["runDetails"]["metadata"]["hanse_facts"].update(facts),
    )
    found = ask(lab, author="Fontane")
    base = node(found, "model/lab-base/1")
    assert base.holds is None and base.seen[0].exposure is None and said in base.seen[0].why
    assert found.unclear == ("release/lab/1",)
    assert any(said in gap for gap in found.gaps)


def test_a_mixture_that_the_record_does_not_make_is_said(lab: ImpactLab) -> None:
    path = lab.store.find("model/lab-base/1").path / "mixture.json"
    rows = json.loads(path.read_text())
    rows[0]["epochs"] += 1
    path.write_text(json.dumps(rows))
    assert "mixture.json" in node(ask(lab, author="Fontane"), "model/lab-base/1").seen[0].why


def test_records_that_name_each_other_are_found_and_end_the_walk(lab: ImpactLab) -> None:
    chat = lab.store.find("model/lab-chat/1")
    named = {"name": chat.ref, "digest": {"sha256": chat.digest}, "annotations": {"role": "model", "record": "0" * 64}}
    edit(
        lab.store.find("model/lab-base/1"),
        lambda told: told["buildDefinition"]["resolvedDependencies"].append(named),
    )
    found = ask(lab, author="Fontane")
    assert any(
        "model/lab-base/1 -> model/lab-chat/1 -> model/lab-base/1" in gap
        or "model/lab-chat/1 -> model/lab-base/1 -> model/lab-chat/1" in gap
        for gap in found.gaps
    )
    assert "release/lab/1" in (*found.releases, *found.unclear)
    assert found.clean == ("release/lab/2",)


def test_a_record_that_names_itself_is_no_endless_walk(lab: ImpactLab) -> None:
    base = lab.store.find("model/lab-base/1")
    named = {"name": base.ref, "digest": {"sha256": base.digest}, "annotations": {"role": "model", "record": "0" * 64}}
    edit(base, lambda told: told["buildDefinition"]["resolvedDependencies"].append(named))
    gaps = ask(lab, author="Fontane").gaps
    assert any("model/lab-base/1 -> model/lab-base/1" in gap for gap in gaps)


def test_a_clock_that_ran_backwards_is_a_warning(lab: ImpactLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "now", lambda: "2001-01-01T00:00:00Z")
    lab.release(lab.store.find("model/lab-base/2"), "early")
    found = ask(lab, author="Storm")
    assert any(told.startswith("release/early/1: finished at 2001-01-01") for told in found.warnings)
    assert found.gaps == ()
    assert "release/early/1" in found.releases


def test_two_records_that_name_different_parents_under_one_name_contradict_each_other(lab: ImpactLab) -> None:
    edit(
        lab.store.find("evaluation/lab/1"),
        lambda told: told["buildDefinition"]["resolvedDependencies"][0]["digest"].update(sha256="ab" * 32),
    )
    gaps = ask(lab, author="Fontane").gaps
    assert any("model/lab-chat/1: is not the one that evaluation/lab/1 was made from" in gap for gap in gaps)


def test_a_model_trained_on_other_shards_than_those_in_the_store_is_unclear(lab: ImpactLab) -> None:
    edit(
        lab.store.find("model/lab-base/1"),
        lambda told: told["buildDefinition"]["resolvedDependencies"][0]["digest"].update(sha256="ab" * 32),
    )
    found = ask(lab, author="Fontane")
    assert found.unclear == ("release/lab/1",)
    assert "another shards/lab/1" in node(found, "model/lab-base/1").how


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"\0" * 5000])
def test_a_table_that_cannot_be_read_leaves_what_was_made_from_it_unclear(lab: ImpactLab, content: bytes) -> None:
    (lab.store.find("dataset/lab/1").path / "documents.parquet").write_bytes(content)
    found = ask(lab, author="Fontane")
    assert any("documents.parquet: cannot be read" in gap for gap in found.gaps)
    assert (found.releases, found.unclear) == ((), ("release/lab/1",))


def test_a_record_that_is_no_json_is_named(lab: ImpactLab) -> None:
    (lab.store.find("model/lab-base/1").path / RECORD).write_text("{")
    found = ask(lab, author="Fontane")
    assert any(gap.startswith("model/lab-base/1 is damaged") for gap in found.gaps)
    assert found.unclear == ("release/lab/1",)


# --------------------------------------------------------------------------- the command


def test_the_answer_for_people_and_for_programs_say_the_same(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(lab, "--author", "Fontane", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["releases"] == ["release/lab/1"]
    base = next(each for each in told["reached"] if each["ref"] == "model/lab-base/1")
    exposure = base["seen"][0]["exposure"]
    assert command(lab, "--author", "Fontane", "--limit", "2") == 0
    shown = capsys.readouterr().out
    assert f"trained on {exposure['trained_tokens']:,} tokens of it" in shown
    assert f"seen {exposure['times']:.2f} times ({exposure['least']} to {exposure['most']})" in shown
    assert f"first in step {exposure['first']['step']} (after {exposure['first']['token']:,} tokens)" in shown
    assert "and 10 more; with --limit" in shown
    assert impact_tree.NAMED_NOT_CLEANED in shown
    assert "checkpoint run/step-000040" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to look for"),
        (["--author", " "], "--author: is empty"),
        (["--limit", "-1", "--author", "A"], "--limit -1"),
        (["--withdrawal", "abc"], "no such withdrawal in"),
        (["--withdrawal", ""], "no such withdrawal in"),
        (["--withdrawal", "abc", "--author", "A"], "leave out --author"),
    ],
)
def test_bad_questions_are_one_sentence(lab: ImpactLab, arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command(lab, *arguments)


def test_a_folder_without_a_store_is_one_sentence(lab: ImpactLab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store here"):
        command(lab, "--store", str(tmp_path / "none"), "--author", "A")


def test_an_empty_store_has_no_text(tmp_path: Path, lab: ImpactLab, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(tmp_path / "empty")
    assert command(lab, "--store", str(tmp_path / "empty"), "--author", "A") == 0
    assert "nothing in a store without any text matches." in capsys.readouterr().out


def test_copies_under_another_name_are_found_through_the_index(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydivsufsort")
    longer = " ".join(prose("de", number) for number in range(910, 913))
    own = [prose("de", number) for number in range(920, 930)]
    quoted = record("de", 900, "Epigone", text=" ".join([*own[:5], longer, *own[5:]]))
    recipe = lab.recipe("6", {"books": [*books(), record("de", 903, "Urheber", text=longer), quoted]})
    lab.data(recipe)
    assert command(lab, "--author", "Urheber", "--copies", "--json") == 0
    found = json.loads(capsys.readouterr().out)["copies"]
    assert [each["document"]["author"] for each in found][:1] == ["Epigone"]
    assert all("Urheber" not in str(each["document"]["author"]) for each in found)


@pytest.mark.slow
def test_the_record_of_a_real_training_is_followed_without_a_doubt(tmp_path: Path) -> None:
    lab = ImpactLab(tmp_path)
    recipe = lab.recipe(
        "1", {"books": books(), "letters": letters(), "talk": talk()},
        pretrain=PRETRAIN | {"budget_tokens": 240 * LENGTH, "stage": STAGES, "milestones": 3, "batch_ramp_share": 0.3},
    )  # fmt: skip
    lab.data(recipe, until="model")
    found = ask(lab, author="Fontane")
    assert (found.gaps, found.warnings, found.notes) == ((), (), ())
    assert [each.ref for each in found.reached if each.kind == "model"] == ["model/lab-base/1", "model/lab-chat/1"]
    base = node(found, "model/lab-base/1").seen[0]
    trained, _ = replayed(
        lab.store.find("model/lab-base/1"), lab.store.find("shards/lab/1"), set(ids_of(lab, "1", author="Fontane"))
    )
    assert base.exposure is not None and base.exposure.trained_tokens == trained > 0
    assert len(base.checkpoints) == 3
    by_then = [kept.trained_tokens for kept in base.checkpoints]
    assert by_then == sorted(by_then) and by_then[-1] <= trained
    said = node(ask(lab, author="Quizmaster"), "model/lab-chat/1").seen[0]
    assert said.exposure is not None and said.exposure.trained_tokens > 0
    assert said.tokens == lab.store.find("model/lab-chat/1").facts["tokens"]
