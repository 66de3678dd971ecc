"""The parts of a curation as tasks of a Ray cluster: same function, same files, on a file system that all nodes see."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanse.errors import InputError


def each(work: Callable[..., Any], parts: Sequence[Any], job: Any, folder: Path) -> Iterator[Any]:
    """Results of `work(part, job, folder)`, as they come.

    Connects to the cluster that `RAY_ADDRESS` names, or to one begun by `ray start`, or starts one on this machine.

    Raises:
        InputError: Ray is not installed, or what `work` raises.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import: Ray reports its use otherwise
    try:
        import ray
    except ImportError:
        raise InputError('[curate] engine = "ray" needs Ray; install it with: pip install "hanse[ray]"') from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    remote = ray.remote(work)
    shared = ray.put(job)
    waiting = [remote.remote(part, shared, folder) for part in parts]
    while waiting:
        done, waiting = ray.wait(waiting)
        for each_done in done:
            try:
                yield ray.get(each_done)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from None
                raise
