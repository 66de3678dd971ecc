"""Several ranks compute what one computes: sharded, copied, with experts apart, in every mixture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_client import RankServer

MTP = {"config": {"num_nextn_predict_layers": 1}, "settings": {"mtp_weight": 0.3}}


def _assert_alike(one: Path, other: Path, left: dict, right: dict) -> None:
    assert left["steps"] == right["steps"] and left["tokens"] == right["tokens"]
    assert right["losses"] == pytest.approx(left["losses"], rel=2e-5)
    assert right["norms"] == pytest.approx(left["norms"], rel=2e-4)
    assert right["loads"] == pytest.approx(left["loads"], abs=0.05)
    weights, others = (torch.load(folder / "weights.pt") for folder in (one, other))
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    "layout",
    [
        {"ranks": 2},
        {"ranks": 2, "expert": 2},
        {"ranks": 2, "replicate": 2},
        {"ranks": 2, "recompute": True, "on_meta": True},
        {"ranks": 2, "experts": 3},
        {"ranks": 2, "masked_rows": 4},  # the first rank has nothing that counts
        pytest.param({"ranks": 4, "replicate": 2}, marks=pytest.mark.slow),
        pytest.param({"ranks": 4, "expert": 2, "experts": 6}, marks=pytest.mark.slow),
        pytest.param({"ranks": 4, "expert": 2}, marks=pytest.mark.slow),
        pytest.param({"ranks": 4, "expert": 4, "on_meta": True}, marks=pytest.mark.slow),
        pytest.param({"ranks": 4, "replicate": 2, "expert": 2, "recompute": True}, marks=pytest.mark.slow),
    ],
    ids=lambda layout: "-".join(f"{key}{value}" for key, value in layout.items()),
)
def test_several_ranks_train_the_model_that_one_trains(server: RankServer, tmp_path: Path, layout: dict) -> None:
    layout = dict(layout)
    config = MTP["config"] | {"n_routed_experts": layout.pop("experts", 8)}  # an uneven number is cut through
    shapes = MTP | {"config": config, "masked_rows": layout.pop("masked_rows", 0)}
    one = server.run(tmp_path / "one", 1, **shapes)
    many = server.run(tmp_path / "many", layout.pop("ranks"), **shapes, **layout)
    _assert_alike(tmp_path / "one", tmp_path / "many", one, many)
