"""Bytes that one rank receives in an optimizer step, by what moves them and over which link, and how long that takes.

Counted for rings, as NCCL and RCCL use for long messages: a gather of S bytes over n ranks brings each rank
S (n - 1) / n. Ranks of a node share what enters it, each through its own network interface.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hanse.model.config import ApertusConfig
from hanse.plan.activations import Native
from hanse.plan.layout import Group, Layout, cut_axis, groups, kept
from hanse.plan.machines import Machine
from hanse.plan.memory import IMBALANCE
from hanse.plan.sizes import Weight

# Of a link's rated bandwidth that long collectives reach, and what each hop of a ring waits. Assumed.
LINK_EFFICIENCY = 0.7
HOP_SECONDS = 10e-6


@dataclass(frozen=True)
class Flow:
    """One kind of collective over an optimizer step.

    Attributes:
        name: what is moved.
        node_bytes: a rank receives from its node.
        network_bytes: a rank's network interface receives.
        hops: of its rings, one after the other.
    """

    name: str
    node_bytes: float
    network_bytes: float
    hops: int

    def seconds(self, machine: Machine) -> float:
        """How long it keeps the slower of its links busy."""
        node = self.node_bytes / (machine.node_link_bytes_per_second * LINK_EFFICIENCY)
        network = self.network_bytes / (machine.network_bytes_per_second * LINK_EFFICIENCY)
        return max(node, network) + self.hops * HOP_SECONDS


@dataclass(frozen=True)
class _Ring:
    """Ranks that move something together, and how they lie."""

    ranks: int
    in_node: int

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.in_node)

    def gather(self, name: str, total_bytes: float, calls: int) -> Flow:
        """Every rank has a part of `total_bytes` and gets the rest; the reverse, a reduce-scatter, moves as much."""
        in_node = (self.in_node - 1) / self.in_node
        across = (self.nodes - 1) / self.nodes
        return Flow(
            name,
            total_bytes * (in_node if self.nodes > 1 else (self.ranks - 1) / self.ranks),
            total_bytes * across / self.in_node,
            calls * (self.ranks - 1),
        )


def traffic(
    config: Native, layout: Layout, *, batch_tokens: int, compute_bytes: int = 2, optimizer: str = "muon"
) -> tuple[Flow, ...]:
    """What moves in one optimizer step.

    Args:
        config: the model.
        layout: how ranks share it.
        batch_tokens: of the step, over all ranks.
        compute_bytes: of a gathered number and of one in a token's row.
        optimizer: only Muon moves anything.
    """
    rounds = max(1, batch_tokens // layout.ranks // layout.micro_batch_tokens)
    found = groups(config, layout)
    flows = [
        _sum_up(f"gather weights, {rounds} x {_times(found)}", _gathers(found, layout, rounds, compute_bytes)),
        _sum_up("sum gradients over shards", _reductions(found, layout, rounds)),
        _over_copies(config, layout),
        _tokens(config, layout, rounds, compute_bytes),
        *([_updates(found, layout, compute_bytes)] if optimizer == "muon" else []),
    ]
    return tuple(flow for flow in flows if flow.node_bytes or flow.network_bytes)


def _times(found: Iterable[Group]) -> int:
    return max(group.times for group in found)


def _ring(group: Group, layout: Layout) -> _Ring:
    if group.strided:
        return _Ring(group.ranks, max(1, min(layout.per_node // layout.expert, group.ranks)))
    return _Ring(group.ranks, min(layout.per_node, group.ranks))


def _gathers(found: Iterable[Group], layout: Layout, rounds: int, size: int) -> Iterable[Flow]:
    for group in found:
        if group.ranks > 1:
            total = group.count * (4 if group.is_float32 else size) * group.times * rounds
            yield _ring(group, layout).gather("", total, group.times * rounds)


def _reductions(found: Iterable[Group], layout: Layout, rounds: int) -> Iterable[Flow]:
    for group in found:
        if group.ranks > 1:
            yield _ring(group, layout).gather("", group.count * 4 * rounds, rounds)


def _over_copies(config: Native, layout: Layout) -> Flow:
    """Parts of gradients, float32, summed once a step over the ranks that keep the same part: two passes of a ring."""
    if layout.replicate == 1:
        return Flow("", 0, 0, 0)
    total = sum(count for _, count in kept(config, layout)) * 4
    ring = _Ring(layout.replicate, max(1, layout.per_node // layout.shard))
    return ring.gather("sum gradients over copies", 2 * total, 2 * len(groups(config, layout)))


def _tokens(config: Native, layout: Layout, rounds: int, size: int) -> Flow:
    """Rows to the experts of other ranks and back, forward and backward, and forward again where that is recomputed."""
    if layout.expert == 1 or isinstance(config, ApertusConfig):
        return Flow("", 0, 0, 0)
    blocks = range(config.num_hidden_layers + config.num_nextn_predict_layers)
    layers = sum(config.is_moe(layer) for layer in blocks)
    passes = 2 * (3 if layout.recompute else 2)
    rows = layout.micro_batch_tokens * rounds * config.num_experts_per_tok * layers * passes * IMBALANCE
    bytes_ = rows * config.hidden_size * size
    in_node = min(layout.per_node, layout.expert)
    return Flow(
        "tokens to experts and back",
        bytes_ * (in_node - 1) / layout.expert,
        bytes_ * (layout.expert - in_node) / layout.expert,
        layers * passes * rounds * (layout.expert - 1),
    )


def _updates(found: Iterable[Group], layout: Layout, size: int) -> Flow:
    """Muon's updates of matrices that are cut: to the rank that has the whole one, and back."""
    flows = []
    for group in found:
        cut = sum(weight.count for weight in group.weights if _is_cut_through(weight, group.ranks))
        if cut and group.ranks > 1:
            ring = _ring(group, layout)
            mine = 2 * cut * size / group.ranks
            flows.append(
                Flow("", mine * (ring.in_node - 1) / ring.ranks, mine * (ring.ranks - ring.in_node) / ring.ranks, 0)
            )
    moved = _sum_up("Muon's matrices to their rank and back", flows)
    return replace(moved, hops=2 * (layout.shard - 1))


def _is_cut_through(weight: Weight, ranks: int) -> bool:
    """Whether Muon has to put it together: it moves matrices and experts, and needs them whole."""
    return weight.group in ("matrices", "routed experts") and cut_axis(weight, ranks) >= len(weight.shape) - 2


def _sum_up(name: str, flows: Iterable[Flow]) -> Flow:
    found = list(flows)
    return Flow(
        name,
        sum(flow.node_bytes for flow in found),
        sum(flow.network_bytes for flow in found),
        sum(flow.hops for flow in found),
    )
