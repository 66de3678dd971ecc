"""How ranks share a model, and what of each weight a rank keeps and gathers: the rules of hanse/parallel, counted.

Ranks are replicate x outer x expert, the last ones neighbours in a node. Each copy of the model is sharded over
shard = outer x expert ranks; routed experts are split whole over `expert` ranks and sharded further over `outer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from hanse.errors import InputError
from hanse.model.config import Config
from hanse.plan.activations import Native
from hanse.plan.sizes import ROOT, Weight, weights


@dataclass(frozen=True)
class Layout:
    """One way to train on some accelerators.

    Attributes:
        nodes, per_node: ranks are their product, one an accelerator.
        replicate: copies of the model.
        expert: ranks that split the routed experts.
        recompute: activations are computed a second time instead of kept.
        micro_batch_tokens: of one forward pass on one rank.
    """

    nodes: int
    per_node: int
    replicate: int = 1
    expert: int = 1
    recompute: bool = False
    micro_batch_tokens: int = 4096

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    @property
    def shard(self) -> int:
        """Ranks that hold one copy of the model together."""
        return self.ranks // self.replicate

    @property
    def outer(self) -> int:
        """Ranks over which the experts of one rank are sharded further."""
        return self.shard // self.expert

    @property
    def is_sharded(self) -> bool:
        """Whether there is more than one rank: alone, nothing is cut or gathered."""
        return self.ranks > 1

    def check(self, config: Config) -> Layout:
        """Return it unchanged, or raise InputError if ranks or experts cannot be divided like this."""
        if self.replicate < 1 or self.ranks % self.replicate:
            raise InputError(f"--replicate {self.replicate}: does not divide {self.ranks} ranks; give a divisor.")
        if self.expert < 1 or self.shard % self.expert:
            raise InputError(f"--expert {self.expert}: does not divide the {self.shard} ranks of one copy.")
        experts = getattr(config, "n_routed_experts", 0)  # of other families than ours, transformers has them
        if self.expert > 1 and not experts:
            raise InputError(f"--expert {self.expert}: this model has no experts to split; leave it out.")
        if experts % self.expert:
            raise InputError(f"--expert {self.expert}: does not divide the {experts} routed experts; give a divisor.")
        return self

    def options(self) -> str:
        """What `hanse run` and `hanse launch` take to train like this."""
        parts = [f"--replicate {self.replicate}"] if self.replicate > 1 else []
        parts += [f"--expert {self.expert}"] if self.expert > 1 else []
        parts += ["--recompute"] if self.recompute else []
        return " ".join([*parts, f"--set pretrain.micro_batch_tokens={self.micro_batch_tokens}"])


@dataclass(frozen=True)
class Group:
    """Weights that are gathered together.

    Attributes:
        block: "layers.3", "mtp" or "root".
        weights: each as one rank of `expert` sees it whole.
        ranks: over which they are sharded.
        strided: neighbours of the group lie in other nodes, because expert ranks stand between.
        is_float32: gathered in float32 instead of what the forward computes in.
        times: gathers in one forward and backward.
    """

    block: str
    weights: tuple[Weight, ...]
    ranks: int
    strided: bool = False
    is_float32: bool = False
    times: int = 2

    @cached_property
    def count(self) -> int:
        """Numbers in it, as gathered: cut unevenly, every part is filled up to the largest."""
        return self.ranks * sum(part(weight, self.ranks) for weight in self.weights)


def part(weight: Weight, ranks: int) -> int:
    """Numbers that the first rank keeps of a weight cut over `ranks`, the largest part."""
    axis = cut_axis(weight, ranks)
    return weight.count // weight.shape[axis] * -(-weight.shape[axis] // ranks)


def cut_axis(weight: Weight, ranks: int) -> int:
    """The axis along which a weight is cut, as `hanse.parallel.shard` does it.

    Pairs of matrices (2, F, D) along F, stacks of experts between them or, where that is uneven, through their width,
    if that comes out even; everything else along the first axis.
    """
    shape = weight.shape
    is_pair = len(shape) == 3 and shape[0] == 2
    axis = 1 if is_pair else 2 if len(shape) > 2 and shape[0] % ranks else 0
    return axis if shape[axis] % ranks == 0 else 0


def groups(config: Native, layout: Layout) -> tuple[Group, ...]:
    """All weights in the groups that FSDP gathers, blocks in order, the root last."""
    return _groups(config, layout.shard, layout.expert, layout.recompute)


@lru_cache(maxsize=1024)
def _groups(config: Native, shard: int, expert: int, recompute: bool) -> tuple[Group, ...]:
    found: list[Group] = []
    by_block: dict[str, list[Weight]] = {}
    for weight in weights(config):
        # Of the multi-token module only its block is sharded for itself, the rest with the root.
        block = ROOT if weight.block == "mtp" and not weight.name.startswith("mtp.block.") else weight.block
        by_block.setdefault(block, []).append(weight)
    root = by_block.pop(ROOT)
    for block, members in by_block.items():
        routers = [w for w in members if w.group == "router"]
        routed = [w for w in members if w.is_routed] if expert > 1 else []
        rest = [w for w in members if w not in routers and w not in routed]
        if routers:
            found.append(Group(block, tuple(routers), shard, is_float32=True))
        if routed:
            mine = tuple(_share(weight, expert) for weight in routed)
            # Inside a block that is recomputed they are gathered for that a third time.
            found.append(Group(block, mine, shard // expert, strided=True, times=3 if recompute else 2))
        found.append(Group(block, tuple(rest), shard))
    found.append(Group(ROOT, tuple(root), shard, is_float32=True, times=1))
    return tuple(found)


def kept(config: Native, layout: Layout) -> tuple[tuple[Weight, int], ...]:
    """Every weight as one rank of `expert` sees it, and how many of its numbers the first rank keeps."""
    return _kept(config, layout.shard, layout.expert)


@lru_cache(maxsize=1024)
def _kept(config: Native, shard: int, expert: int) -> tuple[tuple[Weight, int], ...]:
    found = _groups(config, shard, expert, False)
    return tuple((weight, part(weight, group.ranks)) for group in found for weight in group.weights)


def largest_block(config: Native, layout: Layout) -> tuple[Group, ...]:
    """The groups of the block that holds most when gathered."""
    by_block: dict[str, list[Group]] = {}
    for group in groups(config, layout):
        if group.block != ROOT:
            by_block.setdefault(group.block, []).append(group)
    return tuple(max(by_block.values(), key=lambda found: sum(group.count for group in found)))


def _share(weight: Weight, ranks: int) -> Weight:
    return Weight(weight.name, (weight.shape[0] // ranks, *weight.shape[1:]), weight.block, weight.group)
