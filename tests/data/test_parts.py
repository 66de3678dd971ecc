"""Curation in parts: any process, any order, any number of crashes, one dataset."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from library import new_work, record, write_lines

from hanse.data import parts
from hanse.data.curate import curate
from hanse.errors import InputError
from hanse.recipe import Curate, Source
from hanse.store.digest import sha256_file

SETTINGS = Curate(identify_language=False, quality=False)


def sources(folder: Path, count: int = 4, documents: int = 30) -> list[Source]:
    made = []
    for number in range(count):
        rows = [record("de", number * 10**4 + n, words=120) for n in range(documents)]
        rows += [record("de", 10**4 + n, words=120, id=f"copy/{number}/{n}") for n in range(3)] if number != 1 else []
        path = write_lines(folder / f"{number}.jsonl", [*rows, b"no json"])
        made.append(Source(name=f"s{number}", kind="jsonl", path=str(path), licence_basis="stated"))
    return made


def build(folder: Path, given: Sequence[Source], *, processes: int = 1) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    work = new_work(folder)
    settings = SETTINGS.model_copy(update={"max_quarantine_share": 0.1})
    curate(work, given, settings, languages=("de",), seed=7, processes=processes)
    return {
        path.relative_to(work.folder).as_posix(): sha256_file(path)
        for path in sorted(work.folder.rglob("*"))
        if path.is_file()
    }


def job(given: Sequence[Source]) -> parts.Job:
    return parts.Job(tuple(given), SETTINGS.model_copy(update={"max_quarantine_share": 0.1}), ("de",), 7)


def say(phrase: str, done: int, total: int | None) -> None: ...


def test_small_files_share_a_part_and_a_large_one_is_a_part_of_its_own(tmp_path: Path) -> None:
    for name, size in (("a", 100), ("b", 100), ("c", parts.PART_BYTES + 1), ("d", 100)):
        with (tmp_path / f"{name}.jsonl").open("wb") as file:
            file.truncate(size)
    planned = parts.plan([Source(name="s", kind="jsonl", path=str(tmp_path)), Source(name="atlas", kind="atlas")])
    names = [[name for _, name in part.files] for part in planned]
    assert names == [["a.jsonl", "b.jsonl"], ["c.jsonl"], ["d.jsonl"], []]
    assert [part.source for part in planned] == [0, 0, 0, 1]


def test_shards_share_all_parts_out_between_them() -> None:
    planned = [parts.Part(number, 0, ()) for number in range(17)]
    taken = [part.number for i in range(1, 6) for part in parts.of_shard(planned, (i, 5))]
    assert sorted(taken) == list(range(17))


def test_several_processes_make_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sources(tmp_path)
    monkeypatch.setattr(parts, "PART_BYTES", 1)  # else so little text would stay in one process
    assert build(tmp_path / "two", given, processes=2) == build(tmp_path / "one", given)


def test_parts_that_others_made_are_found_and_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sources(tmp_path)
    wanted = build(tmp_path / "straight", given)
    folder = tmp_path / "shared"
    folder.mkdir()
    planned = parts.plan(given)
    for i in (3, 1, 2):
        mine = parts.of_shard(planned, (i, 3))
        scratch = folder / "scratch" / "parts"
        parts.annotate_all(mine, job(given), scratch, processes=1, engine="local", say=say, is_all=False)
    monkeypatch.setattr(parts, "annotate_part", lambda *_: pytest.fail("a finished part was read again"))
    assert build(folder, given) == wanted


@pytest.mark.parametrize("damage", ["cut", "gone", "line"])
def test_a_part_that_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    given = sources(tmp_path)
    wanted = build(tmp_path / "straight", given)
    folder = tmp_path / "damaged"
    folder.mkdir()
    scratch = folder / "scratch" / "parts"
    parts.annotate_all(parts.plan(given), job(given), scratch, processes=1, engine="local", say=say)
    victim = scratch / "00002.parquet"
    if damage == "cut":
        os.truncate(victim, victim.stat().st_size - 1)
    elif damage == "gone":
        victim.unlink()
    else:
        (scratch / "00002.json").write_text('{"part"')
    assert build(folder, given) == wanted


def test_the_manifest_has_a_line_for_each_part(tmp_path: Path) -> None:
    given = sources(tmp_path)
    build(tmp_path / "made", given)
    lines = [json.loads(line) for line in (tmp_path / "made/artifact/manifest.jsonl").read_text().splitlines()]
    assert [(line["part"], line["source"], line["inputs"]) for line in lines] == [
        (n, f"s{n}", [f"{n}.jsonl"]) for n in range(4)
    ]
    assert all(line["faults"] == {"not-json": 1} for line in lines)


def test_a_source_that_vanishes_midway_is_named(tmp_path: Path) -> None:
    given = sources(tmp_path)
    planned = parts.plan(given)
    Path(given[2].path).unlink()
    with pytest.raises(InputError, match=r"source 's2'.*2\.jsonl has vanished"):
        parts.annotate_all(planned, job(given), tmp_path / "p", processes=1, engine="local", say=say)
    assert not list((tmp_path / "p").glob(".0*"))


def test_twenty_thousand_empty_documents_are_dropped_one_by_one(tmp_path: Path) -> None:
    empty = [{"text": "", "licence": "CC0-1.0", "language": "de"} for _ in range(20_000)]
    path = write_lines(tmp_path / "empty.jsonl", [*empty, *(record("de", n, words=120) for n in range(20))])
    build(tmp_path / "made", [Source(name="s", kind="jsonl", path=str(path))])
    counts = json.loads((tmp_path / "made/artifact/counts.json").read_text())
    assert counts["kept"] == 20
    table: list[dict[str, Any]] = pq.read_table(tmp_path / "made/artifact/documents.parquet").to_pylist()
    assert {reason for row in table for reason in row["drop_reason"]} == {"too-short"}


RECIPE = """
name = "killed"
languages = ["de"]
[curate]
identify_language = false
quality = false
max_quarantine_share = 0.1
"""


def write_recipe(folder: Path, count: int, documents: int) -> list[str]:
    """A recipe over some sources, and the command that curates by it; the store's name is still to come."""
    given = sources(folder, count=count, documents=documents)
    tables = "".join(f'[[source]]\nname = "{s.name}"\nkind = "jsonl"\npath = "{s.path}"\n' for s in given)
    (folder / "killed.toml").write_text(RECIPE + tables)
    return [sys.executable, "-m", "hanse.cli", "data", "killed.toml", "--until", "dataset", "--store"]


def sums(folder: Path, store: str) -> str:
    return (folder / store / "dataset/killed/1/SHA256SUMS").read_text()


@pytest.mark.slow
def test_tasks_of_a_cluster_make_the_dataset_that_one_run_makes(tmp_path: Path) -> None:
    command = write_recipe(tmp_path, count=5, documents=100)

    def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=600
        )

    assert hanse("straight").returncode == 0
    early = hanse("shared", "--bands", "1/2")
    assert early.returncode == 2 and "5 of 5 parts are not annotated" in early.stderr
    for share in ("2/3", "3/3", "1/3"):
        assert hanse("shared", "--shard", share).returncode == 0
    for share in ("1/2", "2/2"):
        assert hanse("shared", "--bands", share).returncode == 0
    kept = sorted(path.name for path in (tmp_path / "shared").rglob("edges-*.npy"))
    assert len(kept) == 15
    assert hanse("shared").returncode == 0
    assert sums(tmp_path, "shared") == sums(tmp_path, "straight")


@pytest.mark.slow
def test_ray_makes_the_same_dataset(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed; pip install "hanse[ray]"')
    command = write_recipe(tmp_path, count=3, documents=100)
    for arguments in (["here"], ["there", "--set", "curate.engine=ray"]):
        subprocess.run([*command, *arguments], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL, timeout=600)
    assert sums(tmp_path, "there") == sums(tmp_path, "here")


@pytest.mark.slow
def test_curation_killed_at_ten_random_moments_ends_in_the_same_dataset(tmp_path: Path) -> None:
    command = write_recipe(tmp_path, count=12, documents=400)
    subprocess.run([*command, "straight"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL, timeout=600)
    draw = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            [*command, "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
        )  # fmt: skip
        try:
            process.wait(timeout=draw.uniform(1, 6))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "killed"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL, timeout=600)
    assert sums(tmp_path, "killed") == sums(tmp_path, "straight")
