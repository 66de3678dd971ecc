"""The loop: what a step does, and what it must not do."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from toy import CPU, LENGTH, ROWS, ToySettings, toy_batch_at, toy_model, toy_train, weights_digest

from hanse.data.loader import Batch
from hanse.errors import InputError, Interrupted
from hanse.model.loss import Objective
from hanse.model.transformer import Transformer
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import Placed
from hanse.train import dry
from hanse.train.optimizer import Optimizer, assign
from hanse.train.step import Step


def test_training_learns_and_reports_what_it_did(tmp_path: Path) -> None:
    summary = toy_train(tmp_path, steps=60)
    assert summary.loss_last < 0.8 * summary.loss_first
    assert summary.steps == 60
    assert summary.tokens == 60 * ROWS * LENGTH
    assert 0 < summary.counted_tokens < summary.tokens
    assert summary.tokens_per_second > 0 and summary.seconds > 0 and summary.peak_memory_bytes > 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["tokens"] == summary.tokens
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds"} <= rows[0].keys()


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_micro_batches_do_not_change_the_gradient(micro_batches: int) -> None:
    def gradients(parts: int) -> tuple[float, list[torch.Tensor]]:
        model = toy_model()
        batches = toy_batch_at(3, micro_batches=parts)
        outcome = _step(model).forward_backward(batches, step=0, mtp_weight=0.0)
        return outcome.loss, [parameter.grad for parameter in model.parameters()]

    loss, whole = gradients(1)
    loss_split, split = gradients(micro_batches)
    assert loss_split == pytest.approx(loss, rel=1e-6)
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)


def test_uneven_masks_are_weighed_by_counted_tokens() -> None:
    first, second = toy_batch_at(0, micro_batches=2)
    sparse = replace(second, targets_BT=second.targets_BT.clone())
    sparse.targets_BT[1:] = -100
    joined = Batch(*(torch.cat(pair) for pair in zip(*(vars(b).values() for b in (first, sparse)), strict=True)))
    model = toy_model()
    apart = _step(model).forward_backward([first, sparse], step=0, mtp_weight=0.0)
    together = _step(model).forward_backward([joined], step=0, mtp_weight=0.0)
    assert apart.loss == pytest.approx(together.loss, rel=1e-6)
    with torch.no_grad():
        scores = model.logits(model(joined.tokens_BT, joined.documents_BT)).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(scores, joined.targets_BT.flatten(), ignore_index=-100)
    assert apart.loss == pytest.approx(float(expected), rel=1e-5)
    assert apart.counted_tokens == together.counted_tokens == int((joined.targets_BT != -100).sum())
    assert apart.tokens == joined.tokens_BT.numel()


def test_dry_batch_leaves_weights_buffers_and_random_state_alone() -> None:
    model = toy_model()
    before, random = weights_digest(model), torch.get_rng_state()
    step = _step(model)
    placed = Placed(model, Ranks(CPU), CPU)
    dry.run(
        placed, toy_batch_at(0), partial(step.forward_backward, mtp_weight=0.0), step.optimizer.zero_grad,
        ranks=Ranks(CPU), wanted=False, chosen=None, batches_left=1,
    )  # fmt: skip
    assert weights_digest(model) == before
    assert all(not router.counts_E.any() for router in model.routers().values())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_token_beyond_the_vocabulary_is_found_before_the_first_step(tmp_path: Path) -> None:
    def broken(step: int) -> list[Batch]:
        return [replace(batch, tokens_BT=batch.tokens_BT + 1000) for batch in toy_batch_at(step)]

    with pytest.raises(InputError, match="vocabulary"):
        toy_train(tmp_path, batch_at=broken)
    assert not (tmp_path / "scratch" / "metrics.jsonl").exists()


def test_a_step_without_counted_tokens_is_an_error(tmp_path: Path) -> None:
    def masked(step: int) -> list[Batch]:
        return [replace(batch, targets_BT=torch.full_like(batch.targets_BT, -100)) for batch in toy_batch_at(step)]

    with pytest.raises(InputError, match="no position of step 1 counts"):
        toy_train(tmp_path, batch_at=masked)


def test_one_non_finite_step_is_dropped_and_recorded(tmp_path: Path) -> None:
    model = toy_model()
    summary = toy_train(tmp_path, model=model, batch_at=_poisoned(model, {7}))
    assert summary.skipped == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "skipped" in row] == [8]
    assert rows[7]["loss"] is None
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert math.isfinite(summary.loss_last)


def test_a_loss_that_stays_non_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    model = toy_model()
    with pytest.raises(InputError, match=r"5 steps in a row.*3 times after going back to step-000010.*learning_rate"):
        toy_train(tmp_path, model=model, batch_at=_poisoned(model, set(range(20)), after=12))
    assert sorted(path.name for path in (tmp_path / "scratch").glob("step-*")) == ["step-000010"]


def test_a_poisoned_stretch_of_data_is_left_out_and_that_is_recorded(tmp_path: Path) -> None:
    model = toy_model()
    asked: list[int] = []
    poisoned = _poisoned(model, set(range(11, 17)))

    def batch_at(step: int) -> list[Batch]:
        asked.append(step)
        return poisoned(step)

    summary = toy_train(tmp_path, model=model, batch_at=batch_at)
    assert summary.steps == 20
    assert summary.rollbacks == [
        {
            "why": "the loss was not a finite number for 5 steps in a row",
            "at_step": 16,
            "to_step": "step-000010",
            "skipped_data_steps": [10, 16],
        }
    ]
    # After the dry batch; what was left out at the end of the data is made up for from its beginning.
    assert asked[1:] == [*range(16), *range(16, 20), *range(6), 0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["step"] for row in rows if "skipped" in row] == [11]  # step 16's data, the last of the stretch


def test_gradients_of_the_trouble_do_not_reach_the_steps_after_going_back(tmp_path: Path) -> None:
    model = toy_model()
    summary = toy_train(tmp_path, model=model, batch_at=_poisoned(model, set(range(11, 16))))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(summary.rollbacks) == 1 and not [row["step"] for row in rows if "skipped" in row]


def test_a_run_that_went_back_and_was_killed_after_that_ends_the_same(tmp_path: Path) -> None:
    straight, resumed = toy_model(), toy_model()
    toy_train(tmp_path / "straight", model=straight, batch_at=_poisoned(straight, set(range(11, 17))))
    poisoned = _poisoned(resumed, set(range(11, 17)))
    asked: list[int] = []

    def stopping(step: int) -> list[Batch]:
        asked.append(step)
        if asked[1:].count(2) == 2:  # the second time is after the end of the data
            os.kill(os.getpid(), signal.SIGTERM)
        return poisoned(step)

    with pytest.raises(Interrupted):
        toy_train(tmp_path / "stopped", model=resumed, batch_at=stopping)
    again = toy_model(seed=5)
    summary = toy_train(tmp_path / "stopped", model=again, batch_at=_poisoned(again, set(range(11, 17))))
    assert weights_digest(again) == weights_digest(straight)
    assert len(summary.rollbacks) == 1


def test_sigterm_finishes_the_step_saves_and_a_second_run_continues_bit_for_bit(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    straight = toy_model()
    toy_train(tmp_path / "straight", model=straight)

    def stopping(step: int) -> list[Batch]:
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_batch_at(step)

    with pytest.raises(Interrupted, match="stopped after step 8 of 20"):
        toy_train(tmp_path / "stopped", batch_at=stopping)
    assert (tmp_path / "stopped" / "scratch" / "step-000008").is_dir()
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = toy_model(seed=5)
    summary = toy_train(tmp_path / "stopped", model=resumed)
    assert weights_digest(resumed) == weights_digest(straight)
    assert summary.steps == 20
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped/run/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))


def test_saving_does_not_change_the_result(tmp_path: Path) -> None:
    often, never = toy_model(), toy_model()
    toy_train(tmp_path / "often", model=often, checkpoint_steps=1)
    toy_train(tmp_path / "never", model=never, checkpoint_steps=None)
    assert weights_digest(often) == weights_digest(never)


def test_a_finished_run_that_is_asked_again_trains_no_further(tmp_path: Path) -> None:
    first, again = toy_model(), toy_model(seed=3)
    toy_train(tmp_path, model=first)
    summary = toy_train(tmp_path, model=again)
    assert weights_digest(again) == weights_digest(first)
    assert summary.steps == 20


def test_a_compiler_that_fails_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", _raise(RuntimeError("no C++ compiler")))
    plain, compiled = toy_model(), toy_model()
    toy_train(tmp_path / "plain", model=plain)
    with pytest.warns(UserWarning, match=r"torch\.compile failed.*no C\+\+ compiler"):
        toy_train(tmp_path / "compiled", model=compiled, settings=ToySettings(compile=True))
    assert weights_digest(compiled) == weights_digest(plain)


def test_resuming_takes_the_threads_of_the_checkpoint_unless_a_person_chose(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        toy_train(tmp_path, batch_at=_stopping_at(3))
    two = replace(CPU, threads=2)
    with pytest.raises(Interrupted):
        toy_train(tmp_path, runtime=two, batch_at=_stopping_at(8))
    assert torch.get_num_threads() == 1
    with pytest.warns(UserWarning, match="2 threads a run begun with 1"), pytest.raises(Interrupted):
        toy_train(tmp_path, runtime=replace(two, threads_chosen=True), batch_at=_stopping_at(10))
    assert torch.get_num_threads() == 2


def test_zero_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no step at all"):
        toy_train(tmp_path, steps=0)


def _raise(error: Exception):
    def fail(*arguments, **options):
        raise error

    return fail


def _stopping_at(last: int):
    def batch_at(step: int) -> list[Batch]:
        if step == last:
            os.kill(os.getpid(), signal.SIGINT)
        return toy_batch_at(step)

    return batch_at


def _poisoned(model: torch.nn.Module, steps: set[int], *, after: int = 0):
    """Batches during whose steps the model's hidden state is not a number, once `after` were asked for."""
    current = {"step": -1, "asked": 0}
    clean = model.forward

    def batch_at(step: int) -> list[Batch]:
        current["step"] = step
        current["asked"] += 1
        return toy_batch_at(step)

    model.forward = lambda *inputs: (
        clean(*inputs) * (math.nan if current["step"] in steps and current["asked"] > after else 1.0)
    )
    return batch_at


def _step(model: Transformer) -> Step:
    optimizer = Optimizer(model, assign(model, ToySettings()), newton_schulz_dtype=torch.float32)
    return Step(Objective(model), optimizer, ToySettings(), CPU, Ranks(CPU))
