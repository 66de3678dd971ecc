"""A job's beginning decides from the store and the record alone, so it decides rightly however the last one ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hanse import cli
from hanse.errors import InputError
from hanse.launch import job
from hanse.launch.chain import Chain, Progress, Verdict, note
from hanse.launch.job import CURABLE, INTERRUPTED
from hanse.launch.rank import environment
from hanse.store.stage import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def folder(store: Path) -> Path:
    Store.open(store)
    made = store / "launch" / "tiny-1"
    made.mkdir(parents=True)
    launched(made, store)
    return made


def launched(folder: Path, store: Path, data_jobs: int = 0) -> None:
    note(folder, "launch", store=str(store), name="tiny", version="1", data_jobs=data_jobs)


def artifact(store: Path, ref: str) -> None:
    (store / ref).mkdir(parents=True)


def checkpoint(store: Path, step: int, ref: str = "model/tiny-base/1") -> None:
    (store / ".work" / ref / "scratch-0a" / f"step-{step:06d}").mkdir(parents=True)


def begin(folder: Path, number: int, kind: str = "train") -> Verdict:
    chain = Chain.read(folder)
    assert chain is not None
    return job.begin(chain, folder, kind, str(number))[0]


def end(folder: Path, number: int, status: int, kind: str = "train", said: str = "Continue with: hanse run") -> Verdict:
    """The end of a job whose log ends with what is said; by default it was asked to stop."""
    with (folder / f"job-{number}.log").open("a") as log:
        log.write(f"job {number} ({kind}), begin: nothing yet\n{said}\n")
    chain = Chain.read(folder)
    assert chain is not None
    return job.end(chain, folder, kind, str(number), str(status))[0]


def stopped(folder: Path) -> str:
    chain = Chain.read(folder)
    assert chain is not None
    return chain.stopped


def test_a_chain_goes_on_while_steps_are_made_and_is_finished_with_the_release(store, folder):
    for number in range(1, 6):
        assert begin(folder, number) is Verdict.GO_ON
        checkpoint(store, 10 * number)
        assert end(folder, number, 0) is Verdict.GO_ON
    assert begin(folder, 6) is Verdict.GO_ON
    artifact(store, "release/tiny/1")
    assert end(folder, 6, 0) is Verdict.FINISHED
    assert begin(folder, 7) is Verdict.FINISHED


def test_a_job_that_was_cut_off_counts_by_what_it_left(store, folder):
    for number in range(1, 5):  # none has an end
        assert begin(folder, number) is Verdict.GO_ON
        checkpoint(store, number)


def test_two_jobs_in_a_row_without_progress_stop_the_chain_for_good(store, folder):
    checkpoint(store, 5)
    assert begin(folder, 1) is Verdict.GO_ON
    checkpoint(store, 6)
    assert begin(folder, 2) is Verdict.GO_ON
    assert begin(folder, 3) is Verdict.GO_ON
    assert begin(folder, 4) is Verdict.STOPPED
    assert "job-2.log and job-3.log" in stopped(folder)
    checkpoint(store, 7)
    assert begin(folder, 5) is Verdict.STOPPED


def test_annotated_parts_count_as_progress_and_logs_do_not(store, folder):
    scratch = store / ".work/dataset/tiny/1/scratch-0a"
    (scratch / "parts").mkdir(parents=True)
    before = Progress.of(store, "tiny", "1")
    for name in ("metrics.jsonl", "parts/.half", ".partial"):
        (scratch / name).touch()
    assert Progress.of(store, "tiny", "1") == before
    (scratch / "parts" / "00001.parquet").touch()
    assert Progress.of(store, "tiny", "1") != before


def test_work_on_another_recipe_or_version_is_no_progress(store):
    for ref in ("dataset/tiny2/1", "model/tiny-x/1", "model/tiny-base/2", "release/other/1"):
        artifact(store, ref)
        checkpoint(store, 3, ref)
    assert Progress.of(store, "tiny", "1") == Progress((), {}, {})
    artifact(store, "model/tiny-tune1/1")
    assert Progress.of(store, "tiny", "1").made == ("model/tiny-tune1/1",)


def test_bad_input_of_any_rank_stops_the_chain_with_its_sentence(folder):
    assert begin(folder, 1) is Verdict.GO_ON
    said = "0: Curate\n3: hanse: docs.jsonl: no such file.\n1: hanse: stopped. Continue with: hanse run x"
    (folder / "exit-1-3").write_text("2\n")
    assert end(folder, 1, 137, said=said) is Verdict.STOPPED  # srun tells the signal that the other ranks died of
    assert stopped(folder) == "job 1 ended with an error: docs.jsonl: no such file."
    assert begin(folder, 2) is Verdict.STOPPED


def test_ranks_that_lost_the_first_one_or_never_met_do_not_stop_the_chain(folder):
    for number, words in enumerate(CURABLE, 1):
        assert begin(folder, number) is Verdict.GO_ON
        (folder / f"exit-{number}-1").write_text("2\n")
        assert end(folder, number, 137, said=f"1: hanse: rank 1: {words} x.") is Verdict.GO_ON


def test_the_sentences_that_the_end_of_a_job_looks_for_are_the_ones_that_are_said():
    code = "".join((ROOT / "hanse" / name).read_text() for name in ("cli.py", "pipeline.py", "parallel/ranks.py"))
    assert all(words in code for words in (*CURABLE, INTERRUPTED))


def test_a_crash_does_not_stop_the_chain(folder):
    assert begin(folder, 1) is Verdict.GO_ON
    assert end(folder, 1, 134) is Verdict.GO_ON
    assert begin(folder, 2) is Verdict.GO_ON


def test_ranks_that_crash_after_progress_are_started_again_in_the_same_job_and_others_are_not(store, folder):
    assert begin(folder, 1) is Verdict.GO_ON
    checkpoint(store, 5)
    assert end(folder, 1, 137) is Verdict.AGAIN
    assert begin(folder, 1) is Verdict.GO_ON
    assert end(folder, 1, 137) is Verdict.GO_ON  # nothing new: the next job, on other nodes
    assert begin(folder, 2) is Verdict.GO_ON
    checkpoint(store, 6)
    assert end(folder, 2, 0) is Verdict.GO_ON  # saved, as Slurm asked
    chain = Chain.read(folder)
    assert chain is not None and [attempt.status for attempt in chain.attempts] == [137, 137, 0]


def test_a_job_waits_until_the_one_before_has_let_go_of_the_recipe(store, folder, monkeypatch):
    monkeypatch.setattr(job, "LOCK_SECONDS", 3.0)
    program = f"""
from pathlib import Path; from hanse.store.stage import Store
with Store.open(Path({str(store)!r})).lock("tiny"):
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        other.communicate("\n")

    monkeypatch.setattr(job, "time", SimpleNamespace(sleep=pause, monotonic=lambda: float(len(pauses))))
    assert begin(folder, 1) is Verdict.GO_ON
    assert len(pauses) == 1


def test_a_new_launch_forgets_why_the_last_one_stopped(store, folder):
    begin(folder, 1)
    begin(folder, 2)
    assert begin(folder, 3) is Verdict.STOPPED
    launched(folder, store)
    assert begin(folder, 4) is Verdict.GO_ON


def test_jobs_for_the_data_have_nothing_to_do_once_there_are_shards_and_without_them_nothing_trains(store, folder):
    launched(folder, store, data_jobs=2)
    assert begin(folder, 1, "data") is Verdict.GO_ON
    assert begin(folder, 3) is Verdict.STOPPED
    assert "see job-1.log" in stopped(folder)
    artifact(store, "shards/tiny/1")
    launched(folder, store, data_jobs=2)
    assert begin(folder, 4, "data") is Verdict.NOTHING_TO_DO
    assert begin(folder, 5) is Verdict.GO_ON


def test_what_another_version_has_made_is_done_though_it_has_no_folder_of_this_one(folder, store):
    launched(folder, store, data_jobs=1)
    assert begin(folder, 1, "data") is Verdict.GO_ON
    assert end(folder, 1, 0, "data", said="unchanged, shards/tiny/0") is Verdict.GO_ON
    assert begin(folder, 2) is Verdict.GO_ON
    assert end(folder, 2, 0, said="unchanged, release/tiny/0") is Verdict.FINISHED
    assert begin(folder, 3) is Verdict.FINISHED


def test_data_that_were_interrupted_are_not_done(folder, store):
    launched(folder, store, data_jobs=1)
    assert begin(folder, 1, "data") is Verdict.GO_ON
    assert end(folder, 1, 0, "data") is Verdict.GO_ON
    assert begin(folder, 2) is Verdict.STOPPED


def test_a_line_that_was_cut_off_is_no_line(store, folder):
    begin(folder, 1)
    with (folder / "chain.jsonl").open("a") as stream:
        stream.write('{"event": "sto')
    chain = Chain.read(folder)
    assert chain is not None and len(chain.attempts) == 1


def test_a_record_that_is_not_there_is_an_error_of_the_job(tmp_path, capsys):
    assert job.main(["begin", str(tmp_path), "train"]) == 2
    assert "launch again" in capsys.readouterr().err


def test_status_before_a_launch_and_after_a_stop(tmp_path, store, folder, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nlanguages = ["mt"]\n[[source]]\nname = "atlas"\nkind = "atlas"\nlicence = "Unicode-3.0"\n'
    )
    assert cli.main(["launch", "tiny.toml", "--status", "--store", "other"]) == 2
    assert "nothing was launched" in capsys.readouterr().err
    note(folder, "submitted", job="1", kind="train")
    begin(folder, 1)
    checkpoint(store, 7)
    row = {"step": 9, "loss": 2.5, "tokens_per_second": 1000.0}
    (store / ".work/model/tiny-base/1/scratch-0a/metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 1')
    monkeypatch.setenv("PATH", "")  # no Slurm: the record answers all the same
    assert cli.main(["launch", "tiny.toml", "--status"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("unknown\n") and "model/tiny-base/1, step 7" in said
    assert "at work on model/tiny-base/1, step 9, loss 2.500, 1,000 tokens/s" in said
    note(folder, "stop", job="1", reason="the disk is full")
    assert cli.main(["launch", "tiny.toml", "--status"]) == 0
    assert "stopped: the disk is full" in capsys.readouterr().out
    assert cli.main(["launch", "tiny.toml", "--status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "stopped" and found["jobs"][0]["kind"] == "train" and found["latest"]["step"] == 9


def test_two_recipes_that_would_share_a_folder_do_not(tmp_path, store, folder, capsys):
    (tmp_path / "clash.toml").write_text(
        'name = "t"\nlanguages = ["mt"]\n[[source]]\nname = "atlas"\nkind = "atlas"\nlicence = "Unicode-3.0"\n'
    )
    clash = store / "launch" / "t-1-1"
    clash.mkdir()
    note(clash, "launch", store=str(store), name="t-1", version="1", data_jobs=0)
    words = ["launch", str(tmp_path / "clash.toml"), "--set", "version=1-1", "--store", str(store), "--machine", "lumi"]
    assert cli.main([*words, "--dry-run"]) == 2
    assert "holds the chain of t-1 version 1" in capsys.readouterr().err


def test_ranks_get_the_names_that_torch_reads_and_a_single_process_gets_none():
    slurm = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert environment(slurm) == expected
    assert environment({**slurm, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}) == {}


def test_an_unreadable_record_names_the_file(folder):
    (folder / "chain.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"chain\.jsonl"):
        Chain.read(folder)
