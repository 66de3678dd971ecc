"""Learning rates of a recipe that names none: one rule for all sizes, and its derivation in words. Torch-free.

Muon's update of an (out, in) matrix has singular values near 1, times sqrt(max(1, out / in)): its effect on the layer's
output does not depend on the width (Bernstein, "Deriving Muon", 2025), so its rate is one number. AdamW moves every
number of a matrix by about the rate, and a sum over the width grows with the width: so the rate of the head, the router
and (tied or not) the embeddings falls as 1 / width (Yang et al., arXiv:2203.03466, table 8). Where AdamW moves all
matrices, the same holds for them. Both numbers were measured at small widths (bench/ablation.py, LOG.md); that they
carry to large ones is the rule, not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from hanse.recipe import Training

Settings = TypeVar("Settings", bound="Training")

MUON = 0.02
ADAM_MATRICES = 0.004
ADAM_REST = 0.01
WIDTH = 192  # where the AdamW rates were measured; narrower models take the same
TUNING = 0.5  # of the rates of pre-training


@dataclass(frozen=True)
class Rates:
    """What the rule gives, and why, a line for each rate."""

    learning_rate: float
    adam_learning_rate: float
    derivation: tuple[str, ...]


def rule(settings: Training, width: int, *, is_tuning: bool = False) -> Rates:
    """The rates of a training: those that the recipe names, and by the rule those that it leaves out.

    Args:
        settings: `[pretrain]` or a `[[tune]]`.
        width: hidden size of the model.
        is_tuning: whether a trained model is tuned.
    """
    share = TUNING if is_tuning else 1.0
    narrowing = min(1.0, WIDTH / width)
    how = f"min(1, {WIDTH} / width {width})" + (f" x {TUNING} for tuning" if is_tuning else "")
    if settings.optimizer == "muon":
        matrices = MUON * share
        why = f"{MUON:g}, the same for all widths" + (f", x {TUNING} for tuning" if is_tuning else "")
    else:
        matrices, why = ADAM_MATRICES * narrowing * share, f"{ADAM_MATRICES:g} x {how}"
    rest = ADAM_REST * narrowing * share
    named = "named in the recipe"
    lines = (
        f"learning_rate {settings.learning_rate or matrices:.4g} ({named if settings.learning_rate else why})",
        f"adam_learning_rate {settings.adam_learning_rate or rest:.4g} "
        f"({named if settings.adam_learning_rate else f'{ADAM_REST:g} x {how}'})",
    )
    return Rates(settings.learning_rate or matrices, settings.adam_learning_rate or rest, lines)


def with_rates(settings: Settings, width: int, *, is_tuning: bool = False) -> Settings:
    """The settings with both rates filled in. Arguments as `rule`."""
    found = rule(settings, width, is_tuning=is_tuning)
    return settings.model_copy(
        update={"learning_rate": found.learning_rate, "adam_learning_rate": found.adam_learning_rate}
    )
