"""Muon needs whole matrices, sharding cuts them: each rank puts some together, orthogonalises them, hands them back.

Two all-to-all exchanges of one shard's size each, and no rank does another's work (as Liu et al., "Muon is scalable for
LLM training", arXiv:2502.16982, sec. 2.3, gather, but with every matrix at one rank only). Experts are cut between
matrices and need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    is_cut = [_cut_axis(parameter) is not None for parameter in parameters]
    at_home = [place for place, cut in enumerate(is_cut) if not cut and updates[place].numel()]
    results: list[Tensor] = list(updates)
    for place, result in zip(at_home, orthogonalize([updates[place] for place in at_home]), strict=True):
        results[place] = result
    away = [place for place, cut in enumerate(is_cut) if cut]
    if away:
        cut = [parameters[place] for place in away]
        done = _exchange([updates[place] for place in away], [p for p in cut if isinstance(p, DTensor)], orthogonalize)
        for place, result in zip(away, done, strict=True):
            results[place] = result
    return results


def _cut_axis(parameter: Tensor) -> int | None:
    """The axis along which matrices of a parameter are cut apart; None if every rank's are whole."""
    if not isinstance(parameter, DTensor):
        return None
    axes = {getattr(placement, "dim", 0) for placement in parameter.placements if not placement.is_replicate()}
    inside = [axis for axis in axes if axis >= parameter.ndim - 2]
    return inside[0] if inside else None


def _exchange(updates: Sequence[Tensor], parameters: Sequence[DTensor], orthogonalize: Orthogonalize) -> list[Tensor]:
    """All matrices to their owners, and the results back."""
    mesh = parameters[0].device_mesh
    group = mesh.get_group(mesh.ndim - 1)
    ranks, me = dist.get_world_size(group), dist.get_rank(group)
    owners = _owners([parameter.shape for parameter in parameters], ranks)
    axes = [_cut_axis(parameter) or 0 for parameter in parameters]
    shapes = [_shard_shapes(parameter.shape, axis, ranks) for parameter, axis in zip(parameters, axes, strict=True)]
    sent = [[n for n, owner in enumerate(owners) if owner == rank] for rank in range(ranks)]

    flat = torch.cat([updates[n].reshape(-1) for numbers in sent for n in numbers])
    sizes_out = [sum(shapes[n][me].numel() for n in numbers) for numbers in sent]
    sizes_in = [sum(shapes[n][rank].numel() for n in sent[me]) for rank in range(ranks)]
    arrived = flat.new_empty(sum(sizes_in))
    dist.all_to_all_single(arrived, flat, sizes_in, sizes_out, group=group)

    parts = [_unpack(piece, [shapes[n][rank] for n in sent[me]]) for rank, piece in enumerate(arrived.split(sizes_in))]
    mine = [torch.cat([parts[rank][k] for rank in range(ranks)], axes[n]) for k, n in enumerate(sent[me])]
    done = orthogonalize(mine)
    back = [
        matrix.split([shape[axes[n]] for shape in shapes[n]], axes[n]) for matrix, n in zip(done, sent[me], strict=True)
    ]
    flat_back = torch.cat(
        [flat.new_empty(0), *(back[k][rank].reshape(-1) for rank in range(ranks) for k in range(len(mine)))]
    )
    returned = flat.new_empty(sum(sizes_out))
    dist.all_to_all_single(returned, flat_back, sizes_out, sizes_in, group=group)

    order = [n for numbers in sent for n in numbers]
    pieces = dict(zip(order, _unpack(returned, [shapes[n][me] for n in order]), strict=True))
    return [pieces[n] for n in range(len(parameters))]


def _owners(shapes: Sequence[torch.Size], ranks: int) -> list[int]:
    """A rank for each matrix: the dearest first, each to the rank with least to do so far."""
    load = [0.0] * ranks
    owners = [0] * len(shapes)
    cost = [float(shape.numel()) * min(shape[-2:]) for shape in shapes]
    for number in sorted(range(len(shapes)), key=lambda n: (-cost[n], n)):
        owners[number] = min(range(ranks), key=lambda rank: (load[rank], rank))
        load[owners[number]] += cost[number]
    return owners


def _shard_shapes(shape: torch.Size, axis: int, ranks: int) -> list[torch.Size]:
    """The shape of every rank's part, cut as `torch.chunk` does: the last ones may be empty."""
    step = -(-shape[axis] // ranks)
    sizes = [max(0, min(step, shape[axis] - rank * step)) for rank in range(ranks)]
    return [torch.Size((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def _unpack(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    pieces = flat.split([shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
