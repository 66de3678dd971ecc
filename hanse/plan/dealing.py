"""Which rows each rank computes, and whether a recipe can be dealt out at all. Torch-free, for it is asked first."""

from __future__ import annotations

from hanse.errors import InputError
from hanse.plan.estimate import model_config
from hanse.plan.layout import Layout
from hanse.recipe import Pretrain, Recipe


def micro_batches(rows: int, micro_rows: int, *, rank: int, ranks: int) -> list[range]:
    """Which rows of an optimizer step this rank computes, micro-batch by micro-batch.

    Args:
        rows: of the whole step, over all ranks.
        micro_rows: of one forward pass on one rank, at most; fewer where a rank's share is smaller.

    Raises:
        InputError: the rows cannot be dealt out evenly.
    """
    if rows % ranks:
        raise InputError(
            f"batch_tokens: {rows} sequences a step cannot be dealt out to {ranks} ranks evenly; make batch_tokens a "
            f"multiple of {ranks} x sequence_length."
        )
    share = rows // ranks
    micro = min(micro_rows, share)
    if share % micro:
        raise InputError(
            f"micro_batch_tokens: {micro} sequences do not divide the {share} that each of {ranks} ranks computes a "
            "step; lower it."
        )
    first = rank * share
    return [range(begin, begin + micro) for begin in range(first, first + share, micro)]


def refuse_uneven(recipe: Recipe, layout: Layout) -> None:
    """What training would refuse at its first step, after days of curation or in a queue.

    Args:
        recipe: its model, and the batches of pre-training and of each tuning.
        layout: ranks, copies and expert ranks count.

    Raises:
        InputError: ranks that cannot share the model, or a batch that cannot be dealt out to them.
    """
    layout.check(model_config(recipe))
    for section in (recipe.pretrain, *recipe.tune):
        whole = section.batch_tokens // section.sequence_length
        micro = (section.micro_batch_tokens or section.batch_tokens) // section.sequence_length
        stretches = section.ramp.stretches if isinstance(section, Pretrain) else ((0, 0, whole),)
        for _, _, rows in stretches:
            micro_batches(rows, micro, rank=0, ranks=layout.ranks)
