"""The plan of a recipe on a named machine: layout, memory, traffic, time. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hanse.errors import InputError
from hanse.model.config import ForeignConfig
from hanse.plan.activations import Native
from hanse.plan.choose import Choice, Job, Wishes, choose
from hanse.plan.duration import Duration, Utilisation, duration, utilisation
from hanse.plan.estimate import model_config
from hanse.plan.machines import Machine
from hanse.recipe import Recipe


@dataclass(frozen=True)
class ClusterPlan:
    """What pre-training a recipe takes on a machine."""

    recipe: Recipe
    config: Native
    machine: Machine
    utilisation: Utilisation
    choice: Choice
    duration: Duration

    @property
    def flop(self) -> int:
        """Operations of the run, without what is computed twice."""
        train = self.recipe.pretrain
        return train.tokens * self.config.flop_per_token(train.sequence_length)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; bytes, seconds, FLOP, watt-hours."""
        train, layout = self.recipe.pretrain, self.choice.layout
        return {
            "recipe": self.recipe.name,
            "machine": asdict(self.machine) | {"unsourced": list(self.machine.unsourced())},
            "parameters": self.config.parameters(),
            "active_parameters": self.config.active_parameters(),
            "steps": train.steps,
            "tokens": train.tokens,
            "flop": self.flop,
            "utilisation": asdict(self.utilisation),
            "layout": asdict(layout) | {"ranks": layout.ranks, "shard": layout.shard, "options": layout.options()},
            "memory": asdict(self.choice.memory) | {"bytes": self.choice.memory.bytes},
            "traffic": [asdict(flow) | {"seconds": flow.seconds(self.machine)} for flow in self.choice.flows],
            "step_seconds": self.choice.step.seconds,
            "duration": asdict(self.duration),
        }


def cluster_plan(
    recipe: Recipe, machine: Machine, nodes: int, *, wishes: Wishes | None = None, share: float | None = None
) -> ClusterPlan:
    """Plan pre-training.

    Args:
        recipe: what to make.
        machine: where.
        nodes: of it.
        wishes: what of the layout is settled; the recipe's micro_batch_tokens counts as settled.
        share: of the peak to plan with, above 0 and at most 1; by default what is known of such runs.

    Raises:
        InputError: it does not fit, or cannot be divided.
    """
    if share is not None and not 0 < share <= 1:
        raise InputError(f"--mfu {share:g}: give a share of the peak above 0 and at most 1, for example 0.15.")
    train, config, wishes = recipe.pretrain, model_config(recipe), wishes or Wishes()
    if isinstance(config, ForeignConfig):
        raise InputError(
            "[model] start: what a model that transformers computes holds while it trains is not known here."
        )
    if wishes.micro_batch_tokens is None and train.micro_batch_tokens:
        wishes = Wishes(wishes.replicate, wishes.expert, wishes.recompute, train.micro_batch_tokens)
    used = utilisation(config, machine) if share is None else Utilisation(share, "given")
    job = Job(
        config,
        train.batch_tokens,
        train.sequence_length,
        used.share,
        smallest_batch_tokens=len(train.ramp.at(0)) * train.sequence_length,
        has_mtp_loss=bool(train.mtp_weight),
        optimizer=train.optimizer,
        compute_bytes=4 if machine.vendor == "cpu" else 2,
    )
    choice = choose(job, machine, nodes, wishes)
    taken = duration(
        config,
        choice.layout,
        machine,
        choice.step,
        steps=train.tokens / train.batch_tokens,
        optimizer=train.optimizer,
        checkpoint_seconds=train.checkpoint_seconds,
    )
    return ClusterPlan(recipe, config, machine, used, choice, taken)
