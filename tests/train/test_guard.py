"""The guard's verdicts, and signals that become requests."""

from __future__ import annotations

import json
import math
import os
import signal

import pytest

from hanse.train.guard import HIGH_PATIENCE, LOSS_WINDOW, PATIENCE, SPIKE_WINDOW, Guard, StopSignals


def test_a_spike_is_dropped_only_once_there_is_something_to_compare_with() -> None:
    guard = Guard()
    assert guard.verdict(0, loss=1.0, gradient_norm=1000.0) == ""
    for step in range(1, SPIKE_WINDOW):
        assert guard.verdict(step, loss=1.0, gradient_norm=1.0) == ""
    assert guard.verdict(60, loss=1.0, gradient_norm=50.0) == "gradient spike"
    assert guard.skipped == 1


def test_a_lasting_change_of_scale_is_accepted_after_a_while() -> None:
    guard = Guard(norms=[1.0] * SPIKE_WINDOW)
    verdicts = [guard.verdict(step, loss=1.0, gradient_norm=100.0) for step in range(SPIKE_WINDOW)]
    assert verdicts[0] == "gradient spike" and verdicts[-1] == ""


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_non_finite_steps_in_a_row_are_trouble_since_the_first_of_them(loss: float, norm: float) -> None:
    guard = Guard()
    for step in range(7, 7 + PATIENCE):
        assert guard.trouble is None
        assert guard.verdict(step, loss=loss, gradient_norm=norm) == "not finite"
    assert guard.trouble is not None and guard.trouble.since == 7


def test_a_lasting_high_loss_is_trouble_once_and_then_the_new_level() -> None:
    guard = Guard(losses=[2.0] * LOSS_WINDOW)
    for step in range(HIGH_PATIENCE):
        assert guard.trouble is None
        assert guard.verdict(step, loss=4.0, gradient_norm=1.0) == ""
    assert guard.trouble is not None and guard.trouble.since == 0 and guard.trouble.is_high_loss
    again = Guard(losses=[2.0] * LOSS_WINDOW, accepts_high=True)
    for step in range(5 * HIGH_PATIENCE):
        again.verdict(step, loss=4.0, gradient_norm=1.0)
    assert again.trouble is None


def test_a_few_high_losses_are_no_trouble() -> None:
    guard = Guard(losses=[2.0] * LOSS_WINDOW)
    for step in range(10 * HIGH_PATIENCE):
        guard.verdict(step, loss=4.0 if step % HIGH_PATIENCE else 2.0, gradient_norm=1.0)
    assert guard.trouble is None


def test_a_good_step_between_bad_ones_resets_the_patience() -> None:
    guard = Guard()
    for step in range(3 * PATIENCE):
        guard.verdict(step, loss=math.nan if step % 2 else 1.0, gradient_norm=1.0)
    assert guard.failures_in_row <= 1


def test_the_state_survives_json_exactly() -> None:
    guard = Guard()
    for step in range(70):
        guard.verdict(step, loss=1.0, gradient_norm=1 / (step + 3))
    again = Guard(**json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    assert again.verdict(70, loss=1.0, gradient_norm=0.3) == guard.verdict(70, loss=1.0, gradient_norm=0.3)


def test_signals_become_a_request_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert not stop.is_requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
