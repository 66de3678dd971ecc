"""A Slurm that all tests of a file share; skipped with the reason where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, NotHere


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
    except NotHere as reason:
        pytest.skip(str(reason))
    except AssertionError as reason:
        made.stop()
        told = f"Slurm does not start: {reason}\n{made.log()}"
        # What only root may do is no failure of ours.
        pytest.fail(told) if os.getuid() == 0 else pytest.skip(told)
    yield made
    made.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a space in its name, to launch from."""
    folder = tmp_path / "my runs"
    folder.mkdir()
    return folder
