"""The guard's verdicts, and signals that become requests."""

from __future__ import annotations

import json
import math
import os
import signal

import pytest

from hanse.errors import InputError
from hanse.train.guard import PATIENCE, SPIKE_WINDOW, Guard, StopSignals


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
def test_non_finite_steps_in_a_row_end_the_run(loss: float, norm: float) -> None:
    guard = Guard()
    for step in range(PATIENCE - 1):
        assert guard.verdict(step, loss=loss, gradient_norm=norm) == "not finite"
    with pytest.raises(InputError, match="lower learning_rate"):
        guard.verdict(PATIENCE - 1, loss=loss, gradient_norm=norm)


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
