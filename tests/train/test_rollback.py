"""Back behind trouble: to which checkpoint, what is left out, and that one is there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from toy import toy_batch_at, toy_model, toy_train

from hanse.data.loader import Batch
from hanse.train import guard


def test_a_loss_that_jumps_and_stays_high_goes_back_and_leaves_that_data_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LOSS_WINDOW", 20)
    monkeypatch.setattr(guard, "HIGH_PATIENCE", 4)
    broken = range(70, 80)

    def batch_at(step: int) -> list[Batch]:
        batches = toy_batch_at(step)
        for batch in batches if step in broken else ():
            batch.targets_BT.copy_(
                torch.randint(61, batch.targets_BT.shape, generator=torch.Generator().manual_seed(0))
            )
        return batches

    summary = toy_train(tmp_path, steps=90, batch_at=batch_at)
    (entry,) = summary.rollbacks
    assert entry["why"] == "the loss was over 1.3 times its median for 4 steps in a row"
    assert (entry["at_step"], entry["to_step"], entry["skipped_data_steps"]) == (74, "step-000070", [70, 74])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 91))
    assert summary.loss_last < rows[69]["loss"] * 1.3


def test_the_checkpoint_before_the_trouble_stays_however_often_is_saved_in_it(tmp_path: Path) -> None:
    model, current = toy_model(), {"step": -1}
    clean = model.forward
    model.forward = lambda *inputs: clean(*inputs) * (math.nan if current["step"] in range(11, 16) else 1.0)  # type: ignore[method-assign]

    def batch_at(step: int) -> list[Batch]:
        current["step"] = step
        return toy_batch_at(step)

    summary = toy_train(tmp_path, model=model, batch_at=batch_at, checkpoint_steps=1)
    assert [entry["to_step"] for entry in summary.rollbacks] == ["step-000011"]
    left = sorted(path.name for path in (tmp_path / "scratch").glob("step-*"))
    assert left == ["step-000019", "step-000020"]
