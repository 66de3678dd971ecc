"""A server of forked ranks, shared by the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rank_client import RankServer

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))  # the toy model


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    started = RankServer(tmp_path_factory.mktemp("ranks") / "log.txt")
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    threads, is_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(is_deterministic)
