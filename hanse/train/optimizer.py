"""Muon for the matrices, AdamW for everything else, and the table that says which parameter gets what.

Muon takes the momentum of a matrix and moves the weights along the nearest orthogonal matrix, found by Newton-Schulz
iteration. Fine-grained experts are hundreds of small equal matrices: all of one shape go through one batched product.

# G matrices of one shape, R rows (out), C columns (in), M the shorter and N the longer side
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at zero; singular values end in about [0.7, 1.2] (Jordan, Muon, 2024)
NEWTON_SCHULZ_STEPS = 5
MUON_MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.95)
ADAM_EPSILON = 1e-10
# Matrices in one batched product: enough to fill the cores, few enough for their cache (192 matrices 96 x 256 on 2
# cores: 461 ms at once, 119 ms in chunks of 16) and for a GPU's memory.
CPU_CHUNK_ELEMENTS = 2**19
GPU_CHUNK_ELEMENTS = 2**27


class Rates(Protocol):
    """The part of a recipe's training section that this file reads."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def adam_learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike; one line of the printed table."""

    label: str
    optimizer: str  # "muon" or "adamw"
    learning_rate: float
    weight_decay: float
    names: tuple[str, ...]
    parameters: int


def assign(model: nn.Module, rates: Rates) -> list[Group]:
    """Decide for every trainable parameter which optimizer, rate and weight decay it gets.

    Matrices of layers and the stacks of routed experts go to Muon. To AdamW go: embeddings and head, whose rows are
    words and not directions; the router, whose update must follow the size of its gradient; everything one-dimensional.
    Only matrices decay.

    Args:
        model: any module; embeddings, head and routers are recognised by their Hugging Face names, routed experts
            as the tensors of a module that has a router. More than two axes are a stack of matrices over the first.
        rates: learning rates and weight decay.

    Returns:
        The groups that are not empty, in a fixed order. A tied head belongs to the embeddings.
    """
    labels = _labels(model)
    kinds = {
        "matrices": ("muon", rates.learning_rate, rates.weight_decay),
        "routed experts": ("muon", rates.learning_rate, rates.weight_decay),
        "embeddings": ("adamw", rates.adam_learning_rate, 0.0),
        "head": ("adamw", rates.adam_learning_rate, 0.0),
        "router": ("adamw", rates.adam_learning_rate, 0.0),
        "norms and biases": ("adamw", rates.adam_learning_rate, 0.0),
    }
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    groups = []
    for label, (optimizer, learning_rate, weight_decay) in kinds.items():
        names = tuple(name for name, given in labels.items() if given == label)
        if names:
            count = sum(sizes[name] for name in names)
            groups.append(Group(label, optimizer, learning_rate, weight_decay, names, count))
    return groups


def table(groups: Iterable[Group]) -> list[tuple[str, ...]]:
    """The parameter table as rows of text, header first: group, tensors, parameters, optimizer, rate, weight decay."""
    header = ("group", "tensors", "parameters", "optimizer", "learning rate", "weight decay")
    rows = [
        (g.label, str(len(g.names)), f"{g.parameters:,}", g.optimizer, f"{g.learning_rate:g}", f"{g.weight_decay:g}")
        for g in groups
    ]
    return [header, *rows]


def orthogonalize(matrices_GRC: Tensor, *, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Replace every matrix by one with the same singular vectors and all singular values near 1.

    Works in the type it is given: bfloat16 on a GPU, float32 elsewhere. In float32, matrices at least twice as long as
    wide take the Gram form: the same polynomial, iterated on M x M alone (measured 1.6-2.8 times faster on a CPU, equal
    to 1e-5).

    Args:
        matrices_GRC: (G, R, C), not empty.
        steps: quintic Newton-Schulz iterations.

    Returns:
        (G, R, C), a new tensor.
    """
    is_tall = matrices_GRC.shape[-2] > matrices_GRC.shape[-1]
    x_GMN = matrices_GRC.mT if is_tall else matrices_GRC
    norm_G11 = torch.linalg.vector_norm(x_GMN, dim=(-2, -1), keepdim=True)
    x_GMN = x_GMN / norm_G11.clamp(min=1e-7)
    use_gram = x_GMN.shape[-1] >= 2 * x_GMN.shape[-2] and x_GMN.dtype in (torch.float32, torch.float64)
    x_GMN = _iterate_gram(x_GMN, steps) if use_gram else _iterate(x_GMN, steps)
    return x_GMN.mT if is_tall else x_GMN


class Optimizer:
    """Muon and AdamW over one model, stepped together.

    Args:
        model: its trainable parameters are taken as they are; float32.
        groups: from `assign`; must name every trainable parameter once.
        newton_schulz_dtype: bfloat16 where that is fast, else float32.
    """

    def __init__(self, model: nn.Module, groups: Iterable[Group], *, newton_schulz_dtype: torch.dtype) -> None:
        self.groups = list(groups)
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._dtype = newton_schulz_dtype
        names = [name for group in self.groups for name in group.names]
        if sorted(names) != sorted(self._named):
            raise ValueError(f"groups must name every parameter once; differing: {set(names) ^ set(self._named)}")
        self._momentum = {
            name: torch.zeros_like(self._named[name])
            for group in self.groups
            if group.optimizer == "muon"
            for name in group.names
        }
        self._adamw = self._build_adamw()

    def _build_adamw(self) -> torch.optim.AdamW | None:
        adam_groups = [group for group in self.groups if group.optimizer == "adamw"]
        if not adam_groups:
            return None
        parts = [
            {"params": [self._named[name] for name in group.names], "weight_decay": group.weight_decay, "lr": 0.0}
            for group in adam_groups
        ]
        adamw = torch.optim.AdamW(parts, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)
        # Its state is made now and not at the first step, so that the dry batch sees the memory of the whole run and a
        # checkpoint holds an entry for every parameter, also for one that has not had a gradient yet.
        for name in (name for group in adam_groups for name in group.names):
            parameter = self._named[name]
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return adamw

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move every parameter that has a gradient; every rate is multiplied by `factor` of the schedule."""
        for group in self.groups:
            if group.optimizer == "muon":
                self._step_muon(group, factor)
        if self._adamw:
            rates = [group.learning_rate for group in self.groups if group.optimizer == "adamw"]
            for part, rate in zip(self._adamw.param_groups, rates, strict=True):
                part["lr"] = rate * factor
            self._adamw.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._named.values():
            parameter.grad = None

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that this optimizer moves."""
        return list(self._named.values())

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors; views, not copies."""
        tensors = {f"muon.momentum.{name}": momentum for name, momentum in self._momentum.items()}
        for name, parameter in self._named.items():
            if self._adamw and name not in self._momentum:
                for key, value in self._adamw.state[parameter].items():
                    tensors[f"adamw.{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy state saved by `state` into place.

        Raises:
            ValueError: names or shapes differ from this optimizer's.
        """
        mine = self.state()
        if mine.keys() != tensors.keys():
            raise ValueError(f"optimizer state differs in {sorted(mine.keys() ^ tensors.keys())[:4]}")
        for name, value in mine.items():
            if value.shape != tensors[name].shape:
                raise ValueError(f"optimizer state {name} has shape {tuple(tensors[name].shape)}")
            value.copy_(tensors[name])

    def _step_muon(self, group: Group, factor: float) -> None:
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        momenta: list[Tensor] = []
        for name in group.names:
            parameter = self._named[name]
            if parameter.grad is not None:
                parameters.append(parameter)
                gradients.append(parameter.grad)
                momenta.append(self._momentum[name])
        if not parameters:
            return
        torch._foreach_lerp_(momenta, gradients, 1 - MUON_MOMENTUM)
        nesterov = torch._foreach_lerp(gradients, momenta, MUON_MOMENTUM)
        rate = group.learning_rate * factor
        if group.weight_decay:
            torch._foreach_mul_(parameters, 1 - rate * group.weight_decay)
        for members, update_GRC in _orthogonalize_by_shape(nesterov, self._dtype):
            rows, columns = update_GRC.shape[-2:]
            # Keeps the step's effect on a layer's output alike over widths, so that one rate serves every model size.
            scale = math.sqrt(max(1.0, rows / columns))
            parts = [parameters[i] for i in members]
            sizes = [part.numel() // (rows * columns) for part in parts]
            updates = [u.reshape(p.shape) for u, p in zip(torch.split(update_GRC, sizes), parts, strict=True)]
            torch._foreach_add_(parts, updates, alpha=-rate * scale)


def _orthogonalize_by_shape(matrices: Sequence[Tensor], dtype: torch.dtype) -> Iterator[tuple[list[int], Tensor]]:
    """Gather equal shapes, orthogonalise them in batches; yields the places of the members and their stack."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, matrix in enumerate(matrices):
        by_shape.setdefault((matrix.shape[-2], matrix.shape[-1]), []).append(place)
    for (rows, columns), members in by_shape.items():
        stack_GRC = torch.cat([matrices[i].reshape(-1, rows, columns) for i in members]).to(dtype)
        limit = CPU_CHUNK_ELEMENTS if stack_GRC.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunks = torch.split(stack_GRC, max(1, limit // (rows * columns)))
        yield members, torch.cat([orthogonalize(chunk) for chunk in chunks]).to(torch.float32)


def _iterate(x_GMN: Tensor, steps: int) -> Tensor:
    a, b, c = QUINTIC
    for _ in range(steps):
        gram_GMM = torch.bmm(x_GMN, x_GMN.mT)
        factor_GMM = torch.baddbmm(gram_GMM, gram_GMM, gram_GMM, beta=b, alpha=c)
        x_GMN = torch.baddbmm(x_GMN, factor_GMM, x_GMN, beta=a)
    return x_GMN


def _iterate_gram(x_GMN: Tensor, steps: int) -> Tensor:
    """Each iteration multiplies X from the left by a polynomial of its Gram matrix: gather these, touch X twice."""
    a, b, c = QUINTIC
    gram_GMM = torch.bmm(x_GMN, x_GMN.mT)
    product_GMM: Tensor | None = None
    for step in range(steps):
        factor_GMM = torch.baddbmm(gram_GMM, gram_GMM, gram_GMM, beta=b, alpha=c)
        factor_GMM.diagonal(dim1=-2, dim2=-1).add_(a)
        product_GMM = factor_GMM if product_GMM is None else torch.bmm(factor_GMM, product_GMM)
        if step + 1 < steps:
            gram_GMM = torch.bmm(torch.bmm(factor_GMM, gram_GMM), factor_GMM)
    return x_GMN if product_GMM is None else torch.bmm(product_GMM, x_GMN)


def _labels(model: nn.Module) -> dict[str, str]:
    """The group of each trainable parameter by name; a tied parameter appears once, under its first name."""
    mixtures = {name for name, module in model.named_modules() if isinstance(getattr(module, "gate", None), nn.Module)}
    return {
        name: _label(name, parameter, is_mixture=name.rpartition(".")[0] in mixtures)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _label(name: str, parameter: Tensor, *, is_mixture: bool) -> str:
    parts = name.split(".")
    if "embed_tokens" in parts:
        return "embeddings"
    if "lm_head" in parts:
        return "head"
    if parameter.ndim < 2:
        return "norms and biases"
    if "gate" in parts:
        return "router"
    return "routed experts" if is_mixture else "matrices"
