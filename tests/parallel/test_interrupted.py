"""Runs of several ranks that are cut off, and what is left of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from rank_client import RankServer


def test_two_ranks_that_are_killed_and_started_again_end_bit_for_bit_the_same(
    server: RankServer, tmp_path: Path
) -> None:
    straight = server.run(tmp_path / "straight", 2, expert=2)
    again = server.run(tmp_path / "again", 2, expert=2)
    assert again["digest"] == straight["digest"]
    for rank, event in ((0, 14), (1, 6)):  # rank 0 in its second save, rank 1 in its third step
        statuses, _ = server.ask(tmp_path / f"killed-{rank}", 2, expert=2, kill=[rank, event])
        assert statuses[rank] == -9 and statuses[1 - rank] != 0
        resumed = server.run(tmp_path / f"killed-{rank}", 2, expert=2)
        assert resumed["digest"] == straight["digest"]
        assert resumed["steps"] == list(range(1, 9))


def test_a_run_goes_on_with_another_number_of_ranks(server: RankServer, tmp_path: Path) -> None:
    straight = server.run(tmp_path / "straight", 1, steps=12)
    folder = tmp_path / "moved"
    for ranks, layout in ((2, {}), (1, {}), (4, {"expert": 2})):
        stop = {2: 4, 1: 8, 4: 0}[ranks]
        statuses, answer = server.ask(folder, ranks, steps=12, stop_after=stop, **layout)
        if stop:
            assert f"stopped after step {stop} of 12" in answer["error"]
        else:
            assert statuses == [0, 0, 0, 0]
            assert answer["losses"] == pytest.approx(straight["losses"], rel=5e-5)
    weights, moved = (torch.load(where / "weights.pt") for where in (tmp_path / "straight", folder))
    for name, tensor in weights.items():
        torch.testing.assert_close(moved[name], tensor, rtol=3e-3, atol=3e-4)


def test_a_stop_that_one_rank_was_asked_for_stops_all_at_the_same_step(server: RankServer, tmp_path: Path) -> None:
    straight = server.run(tmp_path / "straight", 2)
    _, answer = server.ask(tmp_path / "stopped", 2, stop_after=5)
    assert "stopped after step 5 of 8" in answer["error"]
    assert server.run(tmp_path / "stopped", 2)["digest"] == straight["digest"]


def test_a_damaged_part_of_one_rank_makes_all_fall_back(server: RankServer, tmp_path: Path) -> None:
    straight = server.run(tmp_path / "straight", 2)
    server.ask(tmp_path / "damaged", 2, stop_after=7)
    file = next((tmp_path / "damaged" / "scratch" / "step-000007").glob("shard-00002-*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert server.run(tmp_path / "damaged", 2)["digest"] == straight["digest"]
    assert "falling back" in server.log.read_text()


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_at_most_one_interval_each(server: RankServer, tmp_path: Path) -> None:
    straight = server.run(tmp_path / "straight", 2, steps=30)
    draw = random.Random(0)
    number = kills = 0
    while kills < 20:
        folder, reached, number = tmp_path / f"killed-{number}", 0, number + 1
        while kills < 20:
            rank, event = draw.randrange(2), draw.randint(1, 16)
            statuses, _ = server.ask(folder, 2, steps=30, kill=[rank, event])
            if -9 not in statuses:
                break  # it came to its end before that event; the rest of the kills meets another run
            kills += 1
            newest = max((int(path.name[5:]) for path in (folder / "scratch").glob("step-*")), default=0)
            done = _last_step(folder)
            print(f"run {number}: rank {rank} killed at event {event}: newest step {newest}, done {done}")
            assert newest >= reached, "a checkpoint was lost"
            assert done - newest <= 3, "more than the steps between two checkpoints were lost"
            reached = newest
        assert server.run(folder, 2, steps=30)["digest"] == straight["digest"]


def _last_step(folder: Path) -> int:
    """The last step that the run wrote a line about."""
    log = folder / "scratch" / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0
