"""Muon needs whole matrices, sharding cuts them: each rank puts some together, orthogonalises them, hands them back.

Two all-to-all exchanges of one shard's size each, and no rank does another's work (as Liu et al., "Muon is scalable for
LLM training", arXiv:2502.16982, sec. 2.3, gather, but with every matrix at one rank only). Experts that are cut between
matrices need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

Orthogonalize = Callable[[Sequence[Tensor]], list[Tensor]]


def orthogonalize_shards(
    updates: Sequence[Tensor], parameters: Sequence[Tensor], orthogonalize: Orthogonalize
) -> list[Tensor]:
    """Orthogonalise matrices that are spread over ranks.

    Args:
        updates: this rank's part of each, as `local(parameter)` is shaped.
        parameters: say how each is cut.
        orthogonalize: does it for whole matrices; takes and gives a list.

    Returns:
        This rank's part of each result, in the order of `updates`. All ranks of a copy have to call it alike.
    """
    cuts = [_cut(parameter) for parameter in parameters]
    at_home = [place for place, cut in enumerate(cuts) if cut is None and updates[place].numel()]
    results: list[Tensor] = list(updates)
    for place, result in zip(at_home, orthogonalize([updates[place] for place in at_home]), strict=True):
        results[place] = result
    for group in dict.fromkeys(cut.group for cut in cuts if cut):  # in the same order on every rank
        places = [place for place, cut in enumerate(cuts) if cut and cut.group is group]
        mine = [cut for cut in cuts if cut and cut.group is group]
        done = _exchange([updates[place] for place in places], mine, orthogonalize)
        for place, result in zip(places, done, strict=True):
            results[place] = result
    return results


@dataclass(frozen=True)
class _Cut:
    """How the matrices of a parameter are cut apart: along which axis, how long it is whole, over which ranks."""

    axis: int
    length: int
    group: dist.ProcessGroup


def _cut(parameter: Tensor) -> _Cut | None:
    """None where every rank's matrices are whole."""
    if not isinstance(parameter, DTensor):
        return None
    for dimension, placement in enumerate(parameter.placements):
        axis = getattr(placement, "dim", 0)
        if not placement.is_replicate() and axis >= parameter.ndim - 2:
            return _Cut(axis, parameter.shape[axis], parameter.device_mesh.get_group(dimension))
    return None


def _exchange(updates: Sequence[Tensor], cuts: Sequence[_Cut], orthogonalize: Orthogonalize) -> list[Tensor]:
    """All matrices to their owners, and the results back."""
    group = cuts[0].group
    ranks, me = dist.get_world_size(group), dist.get_rank(group)
    shapes = [_shard_shapes(update.shape, cut, ranks) for update, cut in zip(updates, cuts, strict=True)]
    wholes = [_with(update.shape, cut.axis, cut.length) for update, cut in zip(updates, cuts, strict=True)]
    owners = _owners(wholes, ranks)
    sent = [[n for n, owner in enumerate(owners) if owner == rank] for rank in range(ranks)]

    flat = torch.cat([updates[n].reshape(-1) for numbers in sent for n in numbers])
    sizes_out = [sum(shapes[n][me].numel() for n in numbers) for numbers in sent]
    sizes_in = [sum(shapes[n][rank].numel() for n in sent[me]) for rank in range(ranks)]
    arrived = flat.new_empty(sum(sizes_in))
    dist.all_to_all_single(arrived, flat, sizes_in, sizes_out, group=group)

    parts = [_unpack(piece, [shapes[n][rank] for n in sent[me]]) for rank, piece in enumerate(arrived.split(sizes_in))]
    mine = [torch.cat([parts[rank][k] for rank in range(ranks)], cuts[n].axis) for k, n in enumerate(sent[me])]
    done = zip(orthogonalize(mine), sent[me], strict=True)
    back = [matrix.split([shape[cuts[n].axis] for shape in shapes[n]], cuts[n].axis) for matrix, n in done]
    pieces = [back[k][rank].reshape(-1) for rank in range(ranks) for k in range(len(mine))]
    returned = flat.new_empty(sum(sizes_out))
    dist.all_to_all_single(returned, torch.cat([flat.new_empty(0), *pieces]), sizes_out, sizes_in, group=group)

    order = [n for numbers in sent for n in numbers]
    results = dict(zip(order, _unpack(returned, [shapes[n][me] for n in order]), strict=True))
    return [results[n] for n in range(len(cuts))]


def _owners(shapes: Sequence[torch.Size], ranks: int) -> list[int]:
    """A rank for each matrix: the dearest first, each to the rank with least to do so far."""
    load = [0.0] * ranks
    owners = [0] * len(shapes)
    cost = [float(shape.numel()) * min(shape[-2:]) for shape in shapes]
    for number in sorted(range(len(shapes)), key=lambda n: (-cost[n], n)):
        owners[number] = min(range(ranks), key=lambda rank: (load[rank], rank))
        load[owners[number]] += cost[number]
    return owners


def _shard_shapes(shape: torch.Size, cut: _Cut, ranks: int) -> list[torch.Size]:
    """The shape of every rank's part, cut as `torch.chunk` does: the last ones may be empty."""
    step = -(-cut.length // ranks)
    sizes = [max(0, min(step, cut.length - rank * step)) for rank in range(ranks)]
    return [_with(shape, cut.axis, size) for size in sizes]


def _with(shape: torch.Size, axis: int, length: int) -> torch.Size:
    return torch.Size((*shape[:axis], length, *shape[axis + 1 :]))


def _unpack(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    pieces = flat.split([shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
