"""One optimizer step over all ranks: what the loop does again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from hanse.data.loader import IGNORED, Batch
from hanse.errors import InputError
from hanse.model.loss import Objective, further_counted
from hanse.model.transformer import RouterLoad
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import sum_over_copies
from hanse.runtime import Runtime
from hanse.train.optimizer import Optimizer, Rates


class Settings(Rates, Protocol):
    """What the loop reads from a recipe's [pretrain] or [[tune]] section; `mtp_weight` too, where there is one."""

    @property
    def warmup_share(self) -> float: ...
    @property
    def decay_share(self) -> float: ...
    @property
    def gradient_clip(self) -> float: ...
    @property
    def router_bias_rate(self) -> float: ...
    @property
    def checkpoint_seconds(self) -> int: ...
    @property
    def keep_checkpoints(self) -> int: ...
    @property
    def z_loss(self) -> float: ...
    @property
    def compile(self) -> bool | Literal["auto"]: ...


@dataclass(frozen=True)
class Outcome:
    """One forward and backward pass over all micro-batches of all ranks: mean loss in nats a counted token."""

    loss: float
    tokens: int
    counted_tokens: int


class Step:
    """The parts of one optimizer step, over all ranks."""

    def __init__(
        self, objective: Objective, optimizer: Optimizer, settings: Settings, runtime: Runtime, ranks: Ranks
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.settings, self.runtime, self.ranks = settings, runtime, ranks

    def forward_backward(
        self, batches: Sequence[Batch], *, step: int, mtp_weight: float, needs_counted: bool = True
    ) -> Outcome:
        """Add up gradients of the step's loss: summed over counted positions, divided by their number on all ranks."""
        mine = sum(int((batch.targets_BT != IGNORED).sum()) for batch in batches)
        further = sum(further_counted(batch.targets_BT, batch.documents_BT) for batch in batches) if mtp_weight else 0
        tokens = sum(batch.tokens_BT.numel() for batch in batches)
        counted, all_further, all_tokens = self.ranks.sum(mine, further, tokens)
        if not counted and needs_counted:
            raise InputError(f"training: no position of step {step + 1} counts for the loss; check the data's masks.")
        loss_total = torch.zeros((), dtype=torch.float32, device=self.runtime.device)
        for number, batch in enumerate(batches, 1):
            sum_over_copies(self.objective, number == len(batches))
            parts = (batch.tokens_BT, batch.targets_BT, batch.documents_BT)
            tokens_BT, targets_BT, documents_BT = (p.to(self.runtime.device, non_blocking=True) for p in parts)
            with self.runtime.autocast():
                loss_sum, further_sum = self.objective(tokens_BT, targets_BT, documents_BT, with_mtp=bool(mtp_weight))
            objective = loss_sum / max(1, counted)
            if mtp_weight:
                objective = objective + mtp_weight * further_sum / max(1, all_further)
            objective.backward()
            loss_total += loss_sum.detach()
        (loss,) = self.ranks.sum(float(loss_total))
        return Outcome(loss=loss / max(1, counted), tokens=int(all_tokens), counted_tokens=int(counted))

    @torch.no_grad()
    def clip(self) -> float:
        """Shorten the gradient to the limit; returns its norm before. Its parts may lie on different meshes."""
        gradients = [part for part in self.optimizer.gradients().values() if part.numel()]
        squares = torch.stack(torch._foreach_norm(gradients)).square().sum()
        norm = float(self.ranks.sum_over_shards(squares).sqrt())
        factor = self.settings.gradient_clip / (norm + 1e-6)
        if factor < 1:
            torch._foreach_mul_(gradients, factor)
        return norm

    def move(self, factor: float) -> list[RouterLoad]:
        """Move weights and router biases; with a factor of 0 neither, but the counts are emptied all the same."""
        if factor:
            self.optimizer.step(factor)
        self.optimizer.zero_grad()
        model = self.objective.model
        self.ranks.sum_tensors([router.counts_E for router in model.routers().values()])
        return model.update_router_bias(self.settings.router_bias_rate if factor else 0.0)

    def discard(self) -> None:
        """Forget a step's gradients and counts."""
        self.move(0.0)


def mtp_weight_at(settings: Settings, step: int, *, steps: int) -> float:
    """The weight of the multi-token loss at `step` of `steps`: mtp_weight, and mtp_final_weight while rates decay."""
    final = getattr(settings, "mtp_final_weight", None)
    is_decaying = step >= steps - round(settings.decay_share * steps)
    return float(final if is_decaying and final is not None else getattr(settings, "mtp_weight", 0.0))
