"""The learning rate over a run: warm up, stay, decay."""

from __future__ import annotations


def warmup_stable_decay(step: int, steps: int, *, warmup_share: float, decay_share: float) -> float:
    """The factor on every learning rate at `step`: linear up, constant, linear down (WSD, arXiv:2404.06395, sec. 4).

    The long flat part makes a checkpoint in it a fair start for another run of any length. No step gets a rate of zero:
    the first of a warm-up over W steps gets 1/W, the last of a decay over D steps 1/D.

    Args:
        step: 0 <= step < steps.
        steps: optimizer steps of the whole run.
        warmup_share: part of `steps` for the way up, in [0, 1].
        decay_share: part of `steps` for the way down, in [0, 1].

    Returns:
        A factor in (0, 1].

    Raises:
        ValueError: `step` lies outside the run.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} lies outside a run of {steps} steps")
    warmup_steps = round(warmup_share * steps)
    decay_steps = round(decay_share * steps)
    upward = (step + 1) / warmup_steps if warmup_steps else 1.0
    downward = (steps - step) / decay_steps if decay_steps else 1.0
    return min(1.0, upward, downward)
