"""Matrix products in float8 (torchao): Hopper and later multiply it at twice the rate of bfloat16.

Dense layers and the projections of attention take it; router, head and the grouped products of experts stay as they
are (torchao's float8 for grouped products is a prototype). Weights, gradients and optimizer stay float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.errors import InputError
from hanse.model.attention import LatentAttention
from hanse.model.moe import Dense

RECIPE = "rowwise"  # a scale a row: as accurate as bfloat16 training in torchao's own runs, unlike a scale a tensor
MULTIPLE = 16  # what the kernels ask of every side of a product
CAPABILITY = (8, 9)


def is_served(device: torch.device) -> bool:
    """Whether the hardware multiplies float8; where it does not, training stays in bfloat16 and a warning says so."""
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= CAPABILITY:
        return True
    warnings.warn(f"float8: {device.type} here has no such products; training goes on without it.", stacklevel=2)
    return False


def apply(model: nn.Module) -> int:
    """Let a model's products run in float8; returns how many modules take it.

    Raises:
        InputError: torchao is not installed.
    """
    product = _product()
    chosen = [module for module in model.modules() if isinstance(module, Dense | LatentAttention)]
    for module in chosen:
        module.product = product
    return len(chosen)


def _product() -> Callable[[Tensor, Tensor], Tensor]:
    try:
        from torchao.float8 import Float8LinearConfig
        from torchao.float8.float8_linear import matmul_with_hp_or_float8_args
        from torchao.float8.float8_training_tensor import LinearMMConfig
    except ImportError as error:
        raise InputError(f"--float8: needs torchao ({error}); install it with: pip install 'hanse[float8]'") from error
    config, products = Float8LinearConfig.from_recipe_name(RECIPE), LinearMMConfig()

    def product(x: Tensor, weight: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows % MULTIPLE or weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
            return F.linear(x, weight)
        dtype = torch.bfloat16
        return matmul_with_hp_or_float8_args.apply(x.to(dtype), weight.to(dtype).t(), products, config)

    return product
