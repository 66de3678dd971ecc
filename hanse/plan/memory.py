"""Bytes that one rank holds while it trains, item by item, and the moment at which they are most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hanse.plan.activations import Native, Precision, block_bytes, exchange_bytes, head_bytes, kept_weights_bytes
from hanse.plan.layout import Group, Layout, groups, kept, largest_block
from hanse.plan.sizes import ROOT

# Rows that arrive at the busiest rank's experts over the even share, which the router's bias steers to. Assumed.
IMBALANCE = 1.25
# What torch does not count: the driver's context, NCCL's buffers, cuBLAS' workspace; on a CPU the libraries. Assumed
# for GPUs, measured for a CPU.
FRAMEWORK_BYTES = {"nvidia": 3.0e9, "amd": 3.0e9, "cpu": 0.35e9}
# Of a GPU's memory: the rest is lost between blocks of torch's allocator. Assumed.
USABLE_SHARE = 0.9
# One block is computed, the next is already there, and its pieces still lie in the buffer they arrived in.
GATHERED_BLOCKS = 3
# Bytes a number that pass through while Muon steps, by the bytes of a number it iterates on: an update, its stack, its
# pieces, their result, and that in float32; where ranks share the work, of one shape after the other.
MUON_BYTES = {2: 8, 4: 16}
MUON_BYTES_SHARED = {2: 8, 4: 14}
ADEMAMIX_BYTES = 8  # roots and updates


@dataclass(frozen=True)
class Item:
    """Some bytes and what they are."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """What a rank holds at its fullest moment.

    Attributes:
        items: there all the time, then what comes on top at that moment.
        moment: when that is.
        moments: bytes in all at each moment that could have been it.
        limit_bytes: what there is to use.
    """

    items: tuple[Item, ...]
    moment: str
    moments: Mapping[str, int]
    limit_bytes: int

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def fits(self) -> bool:
        return self.bytes <= self.limit_bytes


def memory(
    config: Native,
    layout: Layout,
    *,
    vendor: str,
    memory_bytes: float,
    sequence_length: int,
    compute_bytes: int = 2,
    has_mtp_loss: bool = False,
    optimizer: str = "muon",
) -> Memory:
    """What the first rank needs, which holds the largest part where a cut is uneven.

    Args:
        config: the model.
        layout: how ranks share it.
        vendor: "nvidia", "amd" or "cpu", which run different kernels.
        memory_bytes: of one accelerator.
        sequence_length: longest document that attention sees, in tokens.
        compute_bytes: of a number in matrix products: 2 in bfloat16, 4 in float32.
        has_mtp_loss: the multi-token block is trained.
        optimizer: "muon", "adamw" or "ademamix".
    """
    precision = Precision(compute_bytes, residual_bytes=4, is_cpu=vendor == "cpu")
    moments = _backward(config, layout, precision, sequence_length, has_mtp_loss)
    moments["the optimizer's step"] = [Item("updates on their way", _updates(config, layout, compute_bytes, optimizer))]
    always = [
        *_persistent(config, layout, optimizer),
        Item("driver, libraries, buffers", int(FRAMEWORK_BYTES[vendor])),
    ]
    sums = {moment: sum(item.bytes for item in (*always, *parts)) for moment, parts in moments.items()}
    fullest = max(sums, key=lambda moment: sums[moment])
    items = (*always, *(item for item in moments[fullest] if item.bytes))
    share = 1.0 if vendor == "cpu" else USABLE_SHARE
    return Memory(items, fullest, sums, int(memory_bytes * share))


def _persistent(config: Native, layout: Layout, optimizer: str) -> list[Item]:
    parts = kept(config, layout)
    numbers = sum(count for _, count in parts)
    return [
        Item("weights, float32", 4 * numbers),
        Item("gradients, float32", 4 * numbers),
        Item(
            "optimizer's momenta, float32",
            sum(4 * weight.optimizer_values(optimizer) * count for weight, count in parts),
        ),
    ]


def _backward(
    config: Native, layout: Layout, precision: Precision, sequence_length: int, has_mtp_loss: bool
) -> dict[str, list[Item]]:
    """What is there on top at each moment that could be the fullest."""
    tokens, size = layout.micro_batch_tokens, precision.compute_bytes
    layers = range(config.num_hidden_layers + has_mtp_loss)
    inside = [_inside(config, layer, layout, precision, sequence_length) for layer in layers]
    stream = tokens * config.hidden_size * precision.residual_bytes
    of_all = stream * len(layers) if layout.recompute else sum(inside)
    activations = Item("block inputs" if layout.recompute else "activations", int(of_all + 2 * stream))
    head = config.vocab_size * config.hidden_size
    root, gathered, unreduced = _gathered(config, layout, size)
    # A block's gradients by its own inner tensors are about as large as what it kept.
    inner = max(inside) * (2 if layout.recompute else 1)
    exchange = tokens * exchange_bytes(config, precision, expert_ranks=layout.expert, imbalance=IMBALANCE)
    copy = head * size if size == 2 else 0
    at_loss = head_bytes(config, precision, tokens) + 4 * head + copy
    loss = Item("loss: logits, gradients of head and hidden states", int(at_loss))
    return {
        "the loss, before the backward": [root, gathered, activations, loss],
        "the backward of a block": [
            root,
            gathered,
            activations,
            Item("gradient of the head", 4 * head),
            Item("inside one block" if not layout.recompute else "inside one block, recomputed", int(inner)),
            unreduced,
            Item("tokens on their way to experts and back", int(exchange)),
        ],
        "the end of the backward": [
            root,
            Item("gradients of embedding and head, whole", _root_gradients(config, layout)),
        ],
    }


def _inside(config: Native, layer: int, layout: Layout, precision: Precision, sequence_length: int) -> float:
    """Bytes that a block keeps for its backward."""
    per_token = block_bytes(
        config, layer, precision, document_tokens=sequence_length, expert_ranks=layout.expert, imbalance=IMBALANCE
    )
    weights = kept_weights_bytes(config, layer, precision, is_sharded=layout.is_sharded)
    return layout.micro_batch_tokens * per_token + weights


def _gathered(config: Native, layout: Layout, size: int) -> tuple[Item, Item, Item]:
    """Whole weights: of the root, of blocks, and the gradients of a block before they are summed over ranks."""
    if not layout.is_sharded:
        numbers = sum(group.count for group in largest_block(config, layout))
        return Item("", 0), Item("", 0), Item("gradients of a block, converted", 4 * numbers if size == 2 else 0)
    root = [group for group in groups(config, layout) if group.block == ROOT]
    block = largest_block(config, layout)
    whole = _bytes(block, size)
    return (
        Item("embedding and head, gathered", _bytes(root, size)),
        Item(f"blocks, gathered ({GATHERED_BLOCKS} at a time)", GATHERED_BLOCKS * whole),
        Item("gradients of a block, before they are summed", whole + 4 * sum(group.count for group in block)),
    )


def _bytes(found: Sequence[Group], size: int) -> int:
    return sum(group.count * (4 if group.is_float32 else size) for group in found)


def _root_gradients(config: Native, layout: Layout) -> int:
    root = sum(group.count for group in groups(config, layout) if group.block == ROOT)
    # Whole gradients, and the buffer that they are summed from.
    return 8 * root if layout.is_sharded else 4 * root


def _updates(config: Native, layout: Layout, size: int, optimizer: str) -> int:
    """Muon steps a whole group at once where ranks share the work, else one shape of it; AdEMAMix too takes a group."""
    sums: dict[tuple[object, ...], int] = {}
    for weight, count in kept(config, layout):
        if weight.moved_by(optimizer) != "adamw":  # its fused kernel needs no memory
            shape = weight.shape[-2:] if optimizer == "muon" and not layout.is_sharded else ()
            sums[(weight.group, shape)] = sums.get((weight.group, shape), 0) + count
    per_number = (
        (MUON_BYTES_SHARED if layout.is_sharded else MUON_BYTES)[size] if optimizer == "muon" else ADEMAMIX_BYTES
    )
    return per_number * max(sums.values(), default=0)
