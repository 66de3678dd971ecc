"""What is applied to a model from outside changes how it computes, not what."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import CPU, TOY_CONFIG, ToySettings, toy_batch_at, toy_model, toy_train, weights_digest

from hanse.errors import InputError, Interrupted
from hanse.model.loss import Objective
from hanse.model.transformer import Transformer
from hanse.parallel import float8
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import Placed
from hanse.train import dry


def test_recomputed_activations_give_the_same_weights_and_count_each_token_once(tmp_path: Path) -> None:
    kept, twice = toy_model(), toy_model()
    toy_train(tmp_path / "kept", model=kept)
    toy_train(tmp_path / "twice", model=twice, runtime=replace(CPU, recompute=True))
    assert weights_digest(twice) == weights_digest(kept)


def test_a_model_without_memory_gets_the_weights_that_it_would_have_had() -> None:
    with torch.device("meta"):
        model = Transformer(TOY_CONFIG)
    model.init_weights(torch.Generator().manual_seed(3))
    Placed(model, Ranks(CPU), CPU)
    assert weights_digest(model) == weights_digest(toy_model(seed=3))


on_cpu = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="this torch multiplies float8 with a scale a row on GPUs only"
)


def _wide(seed: int = 0) -> Transformer:
    return toy_model(seed, hidden_size=64, intermediate_size=96, q_lora_rank=32, kv_lora_rank=32, v_head_dim=16,
                     qk_nope_head_dim=24, qk_rope_head_dim=8)  # fmt: skip


@on_cpu
def test_float8_products_come_close_and_give_gradients_to_all() -> None:
    plain, model = _wide(), _wide()
    assert float8.apply(model) == 2 + 2  # attention and feed-forward of two blocks
    batch = toy_batch_at(0, micro_batches=1)[0]
    losses = []
    for each in (plain, model):
        loss, _ = Objective(each)(batch.tokens_BT, batch.targets_BT, batch.documents_BT, with_mtp=False)
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    for (name, one), (_, other) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        if one.ndim > 1:
            alike = torch.nn.functional.cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0)
            assert alike > 0.9, name


@on_cpu
def test_a_run_in_float8_learns_as_well(tmp_path: Path) -> None:
    model = _wide()
    float8.apply(model)
    plain = toy_train(tmp_path / "plain", model=_wide(), steps=60)
    summary = toy_train(tmp_path / "float8", model=model, steps=60)
    # Where a run of sixty steps ends differs by a sixth of the loss between seeds and processors; what it learned does
    # not.
    assert summary.loss_first - summary.loss_last == pytest.approx(plain.loss_first - plain.loss_last, rel=0.05)


def test_where_the_hardware_has_no_float8_training_goes_on_without_it(tmp_path: Path) -> None:
    model, plain = toy_model(), toy_model()
    with pytest.warns(UserWarning, match="float8: cpu here has no such products"):
        toy_train(tmp_path / "asked", model=model, runtime=replace(CPU, float8=True))
    toy_train(tmp_path / "plain", model=plain)
    assert weights_digest(model) == weights_digest(plain)


def test_a_missing_torchao_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.float8", None)
    with pytest.raises(InputError, match=r"pip install 'hanse\[float8\]'"):
        float8.apply(toy_model())


def test_experts_of_a_dense_model_cannot_be_split() -> None:
    ranks = Ranks(CPU)
    ranks.expert = 2
    with pytest.raises(InputError, match="--expert 2: this model has no experts to split"):
        Placed(toy_model(n_routed_experts=0, first_k_dense_replace=0), ranks, CPU)


def test_compiled_blocks_can_be_switched_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(function, **options):
        def compiled(*arguments):
            calls.append(1)
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", counting)
    compiled, plain = toy_model(), toy_model()
    toy_train(tmp_path / "compiled", model=compiled, settings=ToySettings(compile=True))
    assert calls
    calls.clear()
    toy_train(tmp_path / "plain", model=plain)
    assert not calls
    assert weights_digest(compiled) == weights_digest(plain)


@pytest.mark.parametrize(("gain", "is_kept"), [(0.1, True), (-0.1, False)])
def test_compilation_by_budget_is_kept_only_where_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, is_kept: bool
) -> None:
    """A stand-in for the compiler, by whose clock each block is so many seconds faster or slower than the plain one."""
    calls: list[int] = []

    class Clock:
        """Goes on by a second whenever it is looked at."""

        now = 0.0

        def perf_counter(self) -> float:
            self.now += 1.0
            return self.now

    clock = Clock()

    def compiler(function, **options):
        def compiled(*arguments):
            calls.append(1)
            clock.now -= gain
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(dry, "time", clock)
    monkeypatch.setattr(dry, "PAYS_AFTER_SECONDS", 0.0)
    toy_train(tmp_path, settings=ToySettings(compile="auto"), steps=6)
    assert (len(calls) > 2 * (1 + dry.TRIALS)) is is_kept  # two blocks, once and the trials; then every step or none


def test_compilation_that_a_person_switches_off_is_off_also_where_the_run_had_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *a: (calls.append(1), function(*a))[1])
    with pytest.raises(Interrupted):
        toy_train(tmp_path, settings=ToySettings(compile=True), batch_at=_stopping_at(3))
    assert calls
    calls.clear()
    toy_train(tmp_path, settings=ToySettings(compile=False))
    assert not calls


def _stopping_at(last: int):
    def batch_at(step: int):
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_batch_at(step)

    return batch_at
