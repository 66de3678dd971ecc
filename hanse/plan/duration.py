"""How long a run takes: computing, links, failures, queues. Every figure that is not counted names what it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hanse.plan.activations import Native
from hanse.plan.layout import Layout, kept
from hanse.plan.machines import Machine
from hanse.plan.traffic import Flow

# Interruptions that nobody planned.
FAILURES_PER_ACCELERATOR_DAY = 419 / 54 / 16_384
FAILURES_SOURCE = "Llama 3: 419 in 54 days on 16,384 GPUs (arXiv:2407.21783, sec. 3.3.4)"
# A new job on other nodes: container, interpreter, collectives, compilation; without waiting in a queue. Assumed.
START_SECONDS = 900
# What a parallel file system takes and gives, bytes per second: by node, and at most. Assumed.
STORAGE_PER_NODE, STORAGE_AT_MOST = 1e9, 100e9
# Of the peak that Muon's products reach, dense and large. Assumed.
MUON_SHARE_OF_PEAK = 0.3
NEWTON_SCHULZ_STEPS = 5
WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Utilisation:
    """Share of the peak that a training step reaches (model FLOP utilisation), and where that is from."""

    share: float
    source: str


def utilisation(config: Native, machine: Machine) -> Utilisation:
    """A share to plan with. It holds what such runs spend on their own communication, and nothing of ours is measured.

    Fine-grained experts keep a GPU far less busy than a dense model does: Megatron Bridge on H100 reached 12 % of the
    bfloat16 peak with Qwen3-30B-A3B on 16 GPUs, 15 % with GPT-OSS-120B on 64, 24 % with Qwen3-235B-A22B on 256 (its
    performance summary, release 25.11). Plain torch is not expected to be faster.
    """
    if machine.vendor == "cpu":
        return Utilisation(0.35, "bench/train_cpu.py, of the measured float32 rate")
    if not config.n_routed_experts:
        return Utilisation(0.30, "dense: 26-29 % on JUPITER, 37 % on LUMI, reported by their users")
    if "H100" in machine.accelerator or "GH200" in machine.accelerator:
        return Utilisation(0.15, "experts on H100: 12-24 % in Megatron Bridge's performance summary, 25.11")
    return Utilisation(0.10, "experts: as on H100 less a third, for torch's grouped product is made for H100")


@dataclass(frozen=True)
class Step:
    """One optimizer step. Seconds.

    Attributes:
        compute: forward and backward at the planned share of the peak, recomputing included.
        links: all links one after the other.
        muon: orthogonalising, beside the exchange that `links` counts.
    """

    compute: float
    links: float
    muon: float

    @property
    def seconds(self) -> float:
        """The slower of computing and links, and then Muon. The share of the peak that others report holds their
        communication already, so the two are not added."""
        return max(self.compute, self.links) + self.muon


@dataclass(frozen=True)
class Duration:
    """A whole run. Times in seconds unless named otherwise.

    Attributes:
        step: one optimizer step.
        training: all steps without any interruption.
        checkpoint_bytes: of one checkpoint.
        save: until a checkpoint is written; training goes on meanwhile.
        restart: from a failure to the next step: a new job and reading the checkpoint.
        failures_per_week: expected.
        lost_per_failure: work since the last whole checkpoint, and the restart.
        wall: training, what failures lose and what each job's start takes; without waiting in a queue.
        jobs: of the longest length that the machine allows.
        energy_wh: of the accelerators at their design power over `wall`, without hosts and cooling; 0 if not known.
    """

    step: Step
    training: float
    checkpoint_bytes: int
    save: float
    restart: float
    failures_per_week: float
    lost_per_failure: float
    wall: float
    jobs: int
    energy_wh: float


def step(
    config: Native,
    layout: Layout,
    machine: Machine,
    flows: Sequence[Flow],
    *,
    batch_tokens: int,
    sequence_length: int,
    share: float,
    optimizer: str = "muon",
) -> Step:
    """Time of one optimizer step."""
    flop = config.flop_per_token(sequence_length) * batch_tokens / layout.ranks
    if layout.recompute:
        flop *= 4 / 3  # a second forward, where forward and backward are three
    muon = 0.0 if optimizer != "muon" else _muon_flop(config, layout) / (machine.peak_bf16_flops * MUON_SHARE_OF_PEAK)
    return Step(flop / (machine.peak_bf16_flops * share), sum(flow.seconds(machine) for flow in flows), muon)


def duration(
    config: Native,
    layout: Layout,
    machine: Machine,
    taken: Step,
    *,
    steps: float,
    checkpoint_seconds: float,
    optimizer: str = "muon",
) -> Duration:
    """Time of the whole run; `steps` are those of the full batch that hold as many tokens."""
    training = steps * taken.seconds
    whole = _checkpoint_bytes(config, optimizer)
    rate = storage_rate(layout)
    save, restart = whole / rate, START_SECONDS + 2 * whole / rate  # verified, then loaded
    failures = FAILURES_PER_ACCELERATOR_DAY * layout.ranks * 7
    lost = checkpoint_seconds / 2 + save + restart
    # Failures also strike while lost work is made good.
    share_lost = min(0.9, failures * lost / WEEK)
    running = training / (1 - share_lost)
    longest = machine.max_hours * 3600
    jobs = max(1, math.ceil(running / max(1.0, longest - restart)))
    wall = running + (jobs - 1) * restart
    return Duration(
        step=taken,
        training=training,
        checkpoint_bytes=whole,
        save=save,
        restart=restart,
        failures_per_week=failures,
        lost_per_failure=lost,
        wall=wall,
        jobs=jobs,
        energy_wh=machine.watts * layout.ranks * wall / 3600,
    )


def storage_rate(layout: Layout) -> float:
    """Bytes per second that all nodes together write and read."""
    return min(STORAGE_AT_MOST, STORAGE_PER_NODE * layout.nodes)


def _checkpoint_bytes(config: Native, optimizer: str) -> int:
    """Weights and optimizer state of one copy of the model, float32."""
    alone = Layout(1, 1)
    return sum(4 * (1 + weight.optimizer_values(optimizer)) * count for weight, count in kept(config, alone))


def _muon_flop(config: Native, layout: Layout) -> float:
    """FLOP of the first rank's Newton-Schulz products: experts where they lie, other matrices shared evenly."""
    total = 0.0
    for weight, count in kept(config, layout):
        if weight.group in ("matrices", "routed experts"):
            rows, columns = weight.shape[-2:]
            short, long = min(rows, columns), max(rows, columns)
            mine = count if weight.is_routed else weight.count / layout.shard
            matrices = mine / (rows * columns)
            total += matrices * NEWTON_SCHULZ_STEPS * (4 * short * short * long + 2 * short**3)
    return total
