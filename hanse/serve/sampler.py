"""Which token comes next, from the logits of one position."""

from __future__ import annotations

import torch
from torch import Tensor

from hanse.errors import InputError


def sample(logits_V: Tensor, *, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Draw one token.

    Args:
        logits_V: float32 logits.
        temperature: divides the logits; 0 takes the largest logit and draws nothing.
        top_p: draw among the likeliest tokens that together have at least this probability, 0 < top_p <= 1 (nucleus
            sampling, arXiv:1904.09751, section 3.1).
        generator: on the CPU; a draw is made there, so that a seed gives the same text whatever the device.

    Raises:
        InputError: a temperature or top_p outside its range.
    """
    check(temperature=temperature, top_p=top_p)
    if temperature == 0.0:
        return int(logits_V.argmax())
    # float64: at a low temperature the quotients are large, and the sum over a vocabulary must still reach top_p.
    probabilities_V = torch.softmax(logits_V.detach().cpu().double() / temperature, dim=-1)
    if top_p < 1.0:
        sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
        # A token stays if those before it do not reach top_p yet: the first always does.
        sorted_V[sorted_V.cumsum(0) - sorted_V >= top_p] = 0.0
        probabilities_V = torch.zeros_like(probabilities_V).scatter(0, order_V, sorted_V)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def check(*, temperature: float, top_p: float) -> None:
    """Refuse settings that have no meaning."""
    if not 0.0 <= temperature <= 100.0:
        raise InputError(f"temperature: {temperature} is out of range; give 0 (likeliest token) to 100.")
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"top_p: {top_p} is out of range; give a probability above 0 and up to 1.")
