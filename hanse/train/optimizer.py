"""Muon for the matrices, AdamW for everything else, and the table that says which parameter gets what.

Muon takes the momentum of a matrix and moves the weights along the nearest orthogonal matrix, found by Newton-Schulz
iteration. Fine-grained experts are hundreds of small equal matrices: all of one shape go through one batched product.
Where a model is sharded, every rank moves its own part of each parameter.

# G matrices of one shape, R rows (out), C columns (in), M the shorter and N the longer side
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from hanse.parallel.matrices import orthogonalize_shards
from hanse.parallel.shard import like, local
from hanse.train.ademamix import AdEMAMix

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
    @property
    def optimizer(self) -> str: ...


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike; one line of the printed table."""

    label: str
    optimizer: str  # "muon", "adamw" or "ademamix"
    learning_rate: float
    weight_decay: float
    names: tuple[str, ...]
    parameters: int


def assign(model: nn.Module, rates: Rates) -> list[Group]:
    """Decide for every trainable parameter which optimizer, rate and weight decay it gets.

    Matrices of layers and the stacks of routed experts go to Muon. To AdamW go: embeddings and head, whose rows are
    words and not directions; the router, whose update must follow the size of its gradient; everything one-dimensional.
    Only matrices decay. With another optimizer than Muon, that one moves them all.

    Args:
        model: any module; routers and routed experts are recognised by their Hugging Face names.
            More than two axes are a stack of matrices over the first.
        rates: learning rates and weight decay.

    Returns:
        The groups that are not empty, in a fixed order. A tied head belongs to the embeddings.
    """
    labels = _labels(model)
    rest = "adamw" if rates.optimizer == "muon" else rates.optimizer
    kinds = {
        "matrices": (rates.optimizer, rates.learning_rate, rates.weight_decay),
        "routed experts": (rates.optimizer, rates.learning_rate, rates.weight_decay),
        "embeddings": (rest, rates.adam_learning_rate, 0.0),
        "head": (rest, rates.adam_learning_rate, 0.0),
        "router": (rest, rates.adam_learning_rate, 0.0),
        "norms and biases": (rest, rates.adam_learning_rate, 0.0),
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
        model: its trainable parameters are taken as they are, whole or sharded; float32.
        groups: from `assign`; must name every trainable parameter once.
        newton_schulz_dtype: bfloat16 where that is fast, else float32.
        steps: of the whole run; AdEMAMix reads it.
    """

    def __init__(
        self, model: nn.Module, groups: Iterable[Group], *, newton_schulz_dtype: torch.dtype, steps: int = 1
    ) -> None:
        self.groups = list(groups)
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._dtype = newton_schulz_dtype
        names = [name for group in self.groups for name in group.names]
        if sorted(names) != sorted(self._named):
            raise ValueError(f"groups must name every parameter once; differing: {set(names) ^ set(self._named)}")
        # What this rank moves: the parameters themselves, or its parts of them, which share their memory.
        with torch.no_grad():
            self._mine = {name: local(parameter).detach() for name, parameter in self._named.items()}
        self._momentum = {
            name: torch.zeros_like(self._mine[name])
            for group in self.groups
            if group.optimizer == "muon"
            for name in group.names
        }
        self._adam = self._build_adam(steps)

    def _build_adam(self, steps: int) -> torch.optim.AdamW | AdEMAMix | None:
        adam_groups = [group for group in self.groups if group.optimizer != "muon"]
        if not adam_groups:
            return None
        parts = [
            {"params": [self._mine[name] for name in group.names], "weight_decay": group.weight_decay, "lr": 0.0}
            for group in adam_groups
        ]
        adam: torch.optim.AdamW | AdEMAMix
        if adam_groups[0].optimizer == "ademamix":
            adam = AdEMAMix(parts, betas=ADAM_BETAS, eps=ADAM_EPSILON, steps=steps)
        else:
            adam = torch.optim.AdamW(parts, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)
        # Its state is made now and not at the first step, so that the dry batch sees the memory of the whole run and a
        # checkpoint holds an entry for every parameter, also for one that has not had a gradient yet.
        for mine in (self._mine[name] for group in adam_groups for name in group.names):
            adam.state[mine] = adam.first_state(mine) if isinstance(adam, AdEMAMix) else _first_adamw_state(mine)
        return adam

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move every parameter that has a gradient; every rate is multiplied by `factor` of the schedule."""
        for group in self.groups:
            if group.optimizer == "muon":
                self._step_muon(group, factor)
        if self._adam:
            rates = [group.learning_rate for group in self.groups if group.optimizer != "muon"]
            for part, rate in zip(self._adam.param_groups, rates, strict=True):
                part["lr"] = rate * factor
            for name, gradient in self.gradients().items():
                self._mine[name].grad = gradient
            self._adam.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for name, parameter in self._named.items():
            parameter.grad = self._mine[name].grad = None

    @torch.no_grad()
    def gradients(self) -> dict[str, Tensor]:
        """This rank's part of every gradient there is, by the parameter's name."""
        return {name: local(p.grad) for name, p in self._named.items() if p.grad is not None}

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors, sharded as their parameters are; views, not copies."""
        tensors = {f"muon.momentum.{name}": like(part, self._named[name]) for name, part in self._momentum.items()}
        for name, parameter in self._named.items():
            if self._adam and name not in self._momentum:
                for key, value in self._adam.state[self._mine[name]].items():
                    tensors[f"adam.{key}.{name}"] = like(value, parameter) if value.ndim else value
        return tensors

    def _step_muon(self, group: Group, factor: float) -> None:
        gradients = self.gradients()
        names = [name for name in group.names if name in gradients]
        rate = group.learning_rate * factor
        for bucket in self._buckets(names):
            mine = [self._mine[name] for name in bucket]
            given = [gradients[name] for name in bucket]
            momenta = [self._momentum[name] for name in bucket]
            torch._foreach_lerp_(momenta, given, 1 - MUON_MOMENTUM)
            nesterov = [part.to(self._dtype) for part in torch._foreach_lerp(given, momenta, MUON_MOMENTUM)]
            if group.weight_decay:
                torch._foreach_mul_(mine, 1 - rate * group.weight_decay)
            updates = orthogonalize_shards(nesterov, [self._named[name] for name in bucket], _orthogonalize_all)
            # Keeps the step's effect on a layer's output alike over widths, so that one rate serves every model size.
            scales = [math.sqrt(max(1.0, shape[-2] / shape[-1])) for shape in (self._named[n].shape for n in bucket)]
            for scale in set(scales):
                chosen = [place for place, each in enumerate(scales) if each == scale]
                torch._foreach_add_(
                    [mine[place] for place in chosen],
                    [updates[place].to(torch.float32) for place in chosen],
                    alpha=-rate * scale,
                )

    def _buckets(self, names: Sequence[str]) -> list[list[str]]:
        """What is stepped together: matrices of one shape; where ranks share the work, all, to share it evenly."""
        if any(_is_sharded(self._named[name]) for name in names):
            return [list(names)]
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name in names:
            by_shape.setdefault(tuple(self._named[name].shape[-2:]), []).append(name)
        return list(by_shape.values())


def _first_adamw_state(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _is_sharded(parameter: Tensor) -> bool:
    return local(parameter) is not parameter


def _orthogonalize_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalize` for matrices and stacks of any shapes: equal ones together, in batches."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, matrix in enumerate(matrices):
        by_shape.setdefault((matrix.shape[-2], matrix.shape[-1]), []).append(place)
    results = list(matrices)
    for (rows, columns), members in by_shape.items():
        stack_GRC = torch.cat([matrices[place].reshape(-1, rows, columns) for place in members])
        limit = CPU_CHUNK_ELEMENTS if stack_GRC.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunks = torch.split(stack_GRC, max(1, limit // (rows * columns)))
        update_GRC = torch.cat([orthogonalize(chunk) for chunk in chunks])
        parts = update_GRC.split([matrices[place].numel() // (rows * columns) for place in members])
        for place, part in zip(members, parts, strict=True):
            results[place] = part.view(matrices[place].shape)
    return results


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
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    filters = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv1d)}
    head = id(getattr(model, "head_VD", None))
    labels = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table, is_filter = id(parameter) in tables, id(parameter) in filters
            label = "embeddings" if is_table else "norms and biases" if is_filter else _label(name, parameter)
            labels[name] = "head" if id(parameter) == head and label != "embeddings" else label
    return labels


def _label(name: str, parameter: Tensor) -> str:
    parts = name.split(".")
    if "embed_tokens" in parts:
        return "embeddings"
    if parameter.ndim < 2:
        return "norms and biases"
    if "gate" in parts:
        return "router"
    return "routed experts" if "experts" in parts else "matrices"
