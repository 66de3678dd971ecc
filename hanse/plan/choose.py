"""Pick the layout that is expected to be fastest of those that fit, or say what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hanse.errors import InputError
from hanse.plan.activations import Native
from hanse.plan.duration import Step, step
from hanse.plan.layout import Layout
from hanse.plan.machines import Machine
from hanse.plan.memory import Memory, memory
from hanse.plan.traffic import Flow, traffic

AS_FAST = 1.01  # of layouts whose times differ by less, the simplest is taken: the plan is not better than that


@dataclass(frozen=True)
class Job:
    """What is to be trained, as far as a layout depends on it.

    Attributes:
        config: the model.
        batch_tokens: of an optimizer step.
        sequence_length: of a row, in tokens.
        utilisation: share of the peak to plan with.
        smallest_batch_tokens: of the run's first steps, where the batch grows; as `batch_tokens` else.
        has_mtp_loss: the multi-token block is trained.
        optimizer: "muon", "adamw" or "ademamix".
        compute_bytes: 2 in bfloat16, 4 in float32.
    """

    config: Native
    batch_tokens: int
    sequence_length: int
    utilisation: float
    smallest_batch_tokens: int = 0
    has_mtp_loss: bool = False
    optimizer: str = "muon"
    compute_bytes: int = 2


@dataclass(frozen=True)
class Wishes:
    """What a person has settled already; None leaves it open."""

    replicate: int | None = None
    expert: int | None = None
    recompute: bool | None = None
    micro_batch_tokens: int | None = None


@dataclass(frozen=True)
class Choice:
    """A layout with what it costs."""

    layout: Layout
    memory: Memory
    flows: tuple[Flow, ...]
    step: Step


def choose(job: Job, machine: Machine, nodes: int, wishes: Wishes | None = None) -> Choice:
    """The fastest layout that fits.

    Args:
        job: what to train.
        machine: where.
        nodes: of it.
        wishes: what is settled.

    Raises:
        InputError: more nodes than a job may have, a batch that cannot be dealt out, a wish that divides nothing, or no
            layout that fits; then by how much, and on how many nodes one would.
    """
    if not 1 <= nodes <= machine.max_nodes:
        raise InputError(f"--nodes {nodes}: a job on {machine.name} may have 1 to {machine.max_nodes} nodes.")
    wishes = wishes or Wishes()
    fitting = [layout for layout in _candidates(job, machine, nodes, wishes) if _memory(job, machine, layout).fits]
    if not fitting:
        raise InputError(_too_small(job, machine, nodes, wishes))
    choices = [assess(job, machine, layout) for layout in fitting]
    fastest = min(choice.step.seconds for choice in choices)
    return min((choice for choice in choices if choice.step.seconds <= AS_FAST * fastest), key=_preference)


def assess(job: Job, machine: Machine, layout: Layout) -> Choice:
    """What a layout costs. Raises InputError where ranks, experts or batch cannot be divided."""
    layout.check(job.config)
    flows = traffic(
        job.config,
        layout,
        batch_tokens=job.batch_tokens,
        compute_bytes=job.compute_bytes,
        optimizer=job.optimizer,
    )
    taken = step(
        job.config,
        layout,
        machine,
        flows,
        batch_tokens=job.batch_tokens,
        sequence_length=job.sequence_length,
        share=job.utilisation,
        optimizer=job.optimizer,
    )
    return Choice(layout, _memory(job, machine, layout), flows, taken)


def _memory(job: Job, machine: Machine, layout: Layout) -> Memory:
    return memory(
        job.config,
        layout,
        vendor=machine.vendor,
        memory_bytes=machine.memory_bytes,
        sequence_length=job.sequence_length,
        compute_bytes=job.compute_bytes,
        has_mtp_loss=job.has_mtp_loss,
        optimizer=job.optimizer,
    )


def _preference(choice: Choice) -> tuple[float, ...]:
    """Less work and fewer parts that can go wrong: rings over few nodes, few copies, few passes."""
    layout = choice.layout
    ring = max(layout.shard, layout.per_node)
    return (layout.recompute, layout.expert, ring, layout.replicate, -layout.micro_batch_tokens, choice.step.seconds)


def _candidates(job: Job, machine: Machine, nodes: int, wishes: Wishes) -> Iterator[Layout]:
    ranks, experts = nodes * machine.accelerators_per_node, job.config.n_routed_experts
    micro_batches = _micro_batches(job, ranks, wishes)
    replicates = _divisors(ranks) if wishes.replicate is None else [wishes.replicate]
    expert = 1 if wishes.expert is None else wishes.expert
    Layout(nodes, machine.accelerators_per_node, replicates[0], expert).check(job.config)
    recomputes = (False, True) if wishes.recompute is None else (wishes.recompute,)
    for replicate in replicates:
        splits = [n for n in _divisors(ranks // replicate) if n == 1 or (experts and experts % n == 0)]
        for expert in splits if wishes.expert is None else {wishes.expert}.intersection(splits):
            for recompute in recomputes:
                for micro in micro_batches:
                    yield Layout(nodes, machine.accelerators_per_node, replicate, expert, recompute, micro)


def _micro_batches(job: Job, ranks: int, wishes: Wishes) -> list[int]:
    """Tokens of a forward pass on one rank: whole sequences that divide a rank's share of the batch."""
    for batch in (job.smallest_batch_tokens or job.batch_tokens, job.batch_tokens):
        rows, rest = divmod(batch, job.sequence_length * ranks)
        if rest or not rows:
            grown = "" if batch == job.batch_tokens else ", where the run begins with"
            raise InputError(
                f"batch_tokens: {batch:,}{grown} cannot be dealt out to {ranks} ranks in whole sequences of "
                f"{job.sequence_length:,} tokens; make it a multiple of {job.sequence_length * ranks:,}, or take fewer "
                "nodes."
            )
    if wishes.micro_batch_tokens:
        wanted, uneven = divmod(min(wishes.micro_batch_tokens, rows * job.sequence_length), job.sequence_length)
        if uneven or not wanted or rows % wanted:
            raise InputError(
                f"micro_batch_tokens: {wishes.micro_batch_tokens:,} does not divide the {rows * job.sequence_length:,} "
                f"tokens that each of {ranks} ranks computes a step into whole sequences; lower it."
            )
        return [wanted * job.sequence_length]
    return [count * job.sequence_length for count in _divisors(rows)]


def _too_small(job: Job, machine: Machine, nodes: int, wishes: Wishes) -> str:
    leanest = min(
        ((_memory(job, machine, layout), layout) for layout in _candidates(job, machine, nodes, wishes)),
        key=lambda found: found[0].bytes,
    )
    needed, limit = leanest[0].bytes / 1e9, leanest[0].limit_bytes / 1e9
    text = (
        f"--nodes {nodes}: does not fit; the leanest layout ({leanest[1].options()}) needs {needed:.1f} GB of the "
        f"{limit:.1f} GB that one {machine.accelerator} has to use, {needed - limit:.1f} GB too much; "
    )
    enough = nodes
    while 2 * enough <= machine.max_nodes:
        enough *= 2
        try:
            layouts = _candidates(job, machine, enough, wishes)
            if any(_memory(job, machine, layout).fits for layout in layouts):
                return f"{text}it fits on {enough} nodes."
        except InputError:
            break
    return f"{text}take a smaller model, a shorter sequence_length, or another machine."


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
