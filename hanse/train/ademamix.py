"""AdEMAMix: Adam with a second, slow momentum that keeps old gradients alive (Pagliardini et al., arXiv:2409.03137)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ALPHA = 8.0  # weight of the slow momentum; the paper finds 4 to 10 alike
SLOWEST = 0.9999


class AdEMAMix(torch.optim.Optimizer):
    """Algorithm 1 of the paper with its warm-ups of alpha and beta3 over the whole run.

    Args:
        groups: parameter groups with `lr` and `weight_decay` (decoupled).
        betas: of the fast momentum and of the second moment.
        eps: added to the root of the second moment.
        steps: of the whole run. The slow momentum forgets half in a tenth of it, or as slowly as the paper's 0.9999.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float, steps: int) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas, self.eps, self.steps = betas, eps, max(1, steps)
        self.slow = min(SLOWEST, 0.5 ** (10 / self.steps)) if steps > 10 else betas[0]

    def first_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's state before its first step."""
        names = ("exp_avg", "exp_avg_sq", "exp_avg_slow")
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, **{name: torch.zeros_like(parameter) for name in names}}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            chosen = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not chosen:
                continue
            states = [self.state[parameter] for parameter in chosen]
            for state in states:
                state["step"] += 1
            self._move(chosen, states, number=int(states[0]["step"]), rate=group["lr"], decay=group["weight_decay"])

    def _move(
        self, parameters: list[Tensor], states: list[dict[str, Tensor]], *, number: int, rate: float, decay: float
    ) -> None:
        gradients: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
        fast, slow, squares = ([state[f"exp_avg{part}"] for state in states] for part in ("", "_slow", "_sq"))
        first, second = self.betas
        alpha, third = self._warmed(number)
        torch._foreach_lerp_(fast, gradients, 1 - first)
        torch._foreach_lerp_(slow, gradients, 1 - third)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, math.sqrt(1 - second**number))
        torch._foreach_add_(roots, self.eps)
        updates = torch._foreach_div(fast, 1 - first**number)
        torch._foreach_add_(updates, slow, alpha=alpha)
        torch._foreach_div_(updates, roots)
        if decay:
            torch._foreach_mul_(parameters, 1 - rate * decay)
        torch._foreach_add_(parameters, updates, alpha=-rate)

    def _warmed(self, number: int) -> tuple[float, float]:
        """Alpha and beta3 at a step: alpha grows linearly, the half-life of the slow momentum too."""
        share = min(1.0, number / self.steps)
        first, last = math.log(self.betas[0]), math.log(self.slow)
        return ALPHA * share, math.exp(first * last / ((1 - share) * last + share * first))
