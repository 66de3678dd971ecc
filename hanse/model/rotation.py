"""Positions as rotations of pairs of a head's numbers (RoPE, arXiv:2104.09864): how far they turn, and which pairs.

Legend: N tokens, H heads, R rotated width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hanse.model.config.rotary import Llama3Scaling, Rotary


def rotation(positions_N: Tensor, rotary: Rotary) -> Tensor:
    """Unit complex numbers (N, R / 2) that rotate pair i of a position by position * theta^(-2i / R), or as scaled."""
    exponents = torch.arange(0, rotary.width, 2, device=positions_N.device, dtype=torch.float32) / rotary.width
    frequencies = 1.0 / rotary.theta**exponents
    if rotary.scaling is not None:
        frequencies = _scaled(frequencies, rotary.scaling)
    angles = positions_N.float().unsqueeze(-1) * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def _scaled(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1's long context: what turns slowly is stretched, what turns fast is kept, and a ramp lies between."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def rotate(values_NR: Tensor, turns_N: Tensor) -> Tensor:
    """Rotate interleaved pairs (even, odd) of the last axis.

    `turns_N` must broadcast against (..., R / 2); as cosines and sines (..., R / 2, 2) where it is real.
    """
    if not turns_N.is_complex():
        even, odd = values_NR.float().unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = turns_N.unbind(-1)
        turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1)
        return turned.flatten(-2).to(values_NR.dtype)
    pairs = torch.view_as_complex(values_NR.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns_N).flatten(-2).to(values_NR.dtype)


def rotate_halves(values_NHR: Tensor, turns_NR: Tensor) -> Tensor:
    """Rotate pairs (i, i + R / 2) of the last axis, in float32.

    `turns_NR`: unit complex numbers (N, R / 2), or their cosines and sines (N, R / 2, 2).
    """
    parts = torch.view_as_real(turns_NR) if turns_NR.is_complex() else turns_NR
    cosine, sine = parts.unsqueeze(1).unbind(-1)
    first, second = values_NHR.float().chunk(2, -1)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
    return turned.to(values_NHR.dtype)
