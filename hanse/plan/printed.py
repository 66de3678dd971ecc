"""A cluster plan as text for people. Bytes are decimal: a GB is 10^9."""

from __future__ import annotations

from collections.abc import Callable

from hanse.console import duration as spoken
from hanse.plan.cluster import ClusterPlan
from hanse.plan.duration import FAILURES_SOURCE, WEEK, storage_rate
from hanse.plan.memory import USABLE_SHARE
from hanse.plan.traffic import LINK_EFFICIENCY

WIDTH = 46  # of the column of names


def text(plan: ClusterPlan) -> str:
    """All of it, as paragraphs; what is assumed says so."""
    parts = (_head(plan), _memory(plan), _traffic(plan), _step(plan), _run(plan))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _head(plan: ClusterPlan) -> list[str]:
    train, layout, machine, config = plan.recipe.pretrain, plan.choice.layout, plan.machine, plan.config
    ways = ["one rank"]
    if layout.is_sharded:
        ways = [f"{_count(layout.replicate, 'copy', 'copies')} of the model over {_count(layout.shard, 'rank')} each"]
    ways += [f"experts split over {layout.expert}"] if layout.expert > 1 else []
    ways += ["activations recomputed"] if layout.recompute else []
    nodes = _count(layout.nodes, "node")
    return [
        f"{plan.recipe.name} on {machine.title}: {nodes}, {layout.ranks:,} x {machine.accelerator}",
        "",
        f"model   {config.parameters():,} parameters, {config.active_parameters():,} active a token",
        f"work    {train.tokens:,} tokens in {train.steps:,} steps, {plan.flop:.2e} FLOP",
        f"layout  {'; '.join(ways)}; {layout.micro_batch_tokens:,} tokens a forward pass",
        f"        {layout.options()}",
    ]


def _memory(plan: ClusterPlan) -> list[str]:
    needed, machine = plan.choice.memory, plan.machine
    size = _unit(needed.bytes)
    rows = [f"  {item.name:<{WIDTH}}{size(item.bytes):>12}" for item in needed.items]
    share = "" if machine.vendor == "cpu" else f", {USABLE_SHARE:.0%} of what it has"
    return [
        f"memory of one {machine.accelerator} at its fullest: {needed.moment}",
        *rows,
        f"  {'together':<{WIDTH}}{size(needed.bytes):>12} of {size(needed.limit_bytes)}{share}",
    ]


def _traffic(plan: ClusterPlan) -> list[str]:
    flows = plan.choice.flows
    if not flows:
        return ["traffic: none, there is one rank"]
    size = _unit(max(max(flow.node_bytes, flow.network_bytes) for flow in flows))
    rows = [
        f"  {flow.name:<{WIDTH}}{size(flow.node_bytes):>12}{size(flow.network_bytes):>13}"
        f"{flow.seconds(plan.machine):>9.2f} s"
        for flow in flows
    ]
    return [f"{'one rank receives in a step':<{WIDTH + 2}}{'in its node':>12}{'by network':>13}{'takes':>11}", *rows]


def _step(plan: ClusterPlan) -> list[str]:
    taken, used, layout = plan.choice.step, plan.utilisation, plan.choice.layout
    peak = plan.machine.peak_bf16_flops / 1e12
    useful = taken.compute / taken.seconds * used.share * (3 / 4 if layout.recompute else 1)
    rate = plan.recipe.pretrain.batch_tokens / taken.seconds
    return [
        f"a step of {plan.recipe.pretrain.batch_tokens:,} tokens",
        f"  computing {taken.compute:>9.2f} s  at {used.share:.0%} of {peak:.4g} TFLOP/s",
        f"                         ({used.source})",
        f"  links     {taken.links:>9.2f} s  at {LINK_EFFICIENCY:.0%} of what they are rated (assumed)",
        f"  Muon      {taken.muon:>9.2f} s",
        f"  together  {taken.seconds:>9.2f} s  the slower of the first two, and the third: {rate:,.0f} tokens",
        f"                         a second, {useful:.1%} of the peak without what is computed twice",
    ]


def _run(plan: ClusterPlan) -> list[str]:
    run, machine, layout = plan.duration, plan.machine, plan.choice.layout
    every = plan.recipe.pretrain.checkpoint_seconds
    lost = run.lost_per_failure * run.failures_per_week / WEEK
    size = _unit(run.checkpoint_bytes)
    rows = [
        "the run",
        f"  time        {_long(run.training)} of steps, {_long(run.wall)} with failures and starts;"
        f" {_count(run.jobs, 'job')} of at most {machine.max_hours:g} h",
        "              what they wait in the queue is not counted",
        f"  checkpoint  {size(run.checkpoint_bytes)}, written in {spoken(run.save)}"
        f" at {storage_rate(layout) / 1e9:.0f} GB/s (assumed) while training goes on",
    ]
    if layout.is_sharded:
        rows += [
            f"  failures    {run.failures_per_week:.2g} a week ({FAILURES_SOURCE});",
            f"              each loses {spoken(run.lost_per_failure)} with a checkpoint every {spoken(every)},"
            f" together {lost:.1%} of the time",
        ]
    if run.energy_wh:
        rows.append(
            f"  energy      at most {_energy(run.energy_wh)}: {machine.watts:.0f} W each by design,"
            " without hosts, network and cooling"
        )
    if machine.unsourced():
        rows.append(f"  to check    on the machine, as it is recalled or assumed: {', '.join(machine.unsourced())}")
    return rows


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _unit(largest: float) -> Callable[[float], str]:
    """Say bytes in the unit that suits the largest of a table."""
    factor, name = (1e9, "GB") if largest >= 10e9 else (1e6, "MB")
    return lambda number: f"{number / factor:,.1f} {name}"


def _energy(watt_hours: float) -> str:
    return f"{watt_hours / 1e6:,.0f} MWh" if watt_hours >= 10e6 else f"{watt_hours / 1e3:,.1f} kWh"


def _long(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds > 48 * 3600 else spoken(seconds)
