"""Intervals that cover, rows that add up, and a table for people."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hanse.evaluate.bootstrap import estimate, replicates
from hanse.evaluate.scores import Measured, Score, as_table, language_rows, load_scores, save_scores, scores_of


def interval(values: np.ndarray, key: str) -> tuple[float, float]:
    ones = np.ones(len(values))
    found = estimate(values, ones, replicates(values, ones, resamples=400, key=key))
    return found.low, found.high


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(1)
    samples = generator.random((300, 200)) < 0.8
    covered = [low <= 0.8 <= high for low, high in (interval(s.astype(float), str(i)) for i, s in enumerate(samples))]
    # 0.95 with 300 trials: four standard deviations are 0.05.
    assert 0.90 <= np.mean(covered) <= 1.0


def test_the_interval_has_the_width_that_theory_gives_a_mean() -> None:
    values = np.repeat([0.0, 1.0], [100, 300])
    low, high = interval(values, "width")
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.2)


def test_a_ratio_weighs_each_item_by_its_size() -> None:
    bits, sizes = np.array([10.0, 300.0]), np.array([10.0, 100.0])
    found = estimate(bits, sizes, replicates(bits, sizes, resamples=200, key="ratio"))
    assert found.value == pytest.approx(310 / 110)
    assert (found.low, found.high) == (1.0, 3.0)


def test_draws_follow_from_the_key_alone_and_not_from_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values, ones = np.arange(50.0), np.ones(50)
    first = replicates(values, ones, resamples=300, key="a")
    monkeypatch.setattr("hanse.evaluate.bootstrap.COUNTS_AT_ONCE", 1000)
    assert np.array_equal(replicates(values, ones, resamples=300, key="a"), first)
    assert not np.array_equal(replicates(values, ones, resamples=300, key="b"), first)


ITEMS = [
    *(Measured("mt", "capital", float(n < 3), 1.0) for n in range(4)),
    *(Measured("mt", "sum", 0.0, 1.0) for _ in range(4)),
    *(Measured("el", "capital", 1.0, 1.0) for _ in range(2)),
]


def test_rows_hold_every_language_and_task_all_tasks_and_the_mean_over_languages() -> None:
    rows = {(row.language, row.task): row for row in scores_of(ITEMS, "exact_answer", resamples=200, seed=0)}
    values = {key: (row.value, row.n) for key, row in rows.items()}
    assert values == {
        ("el", "all"): (1.0, 2),
        ("el", "capital"): (1.0, 2),
        ("mt", "all"): (0.375, 8),
        ("mt", "capital"): (0.75, 4),
        ("mt", "sum"): (0.0, 4),
        ("mean", "all"): (0.6875, 10),
        ("mean", "capital"): (0.875, 6),
        ("mean", "sum"): (0.0, 4),
    }
    assert all(row.low <= row.value <= row.high for row in rows.values())
    spread, mean_spread = (rows[code, "all"].high - rows[code, "all"].low for code in ("mt", "mean"))
    assert mean_spread == pytest.approx(spread / 2, rel=0.2)  # the other language adds none


def test_rows_do_not_depend_on_what_else_is_measured() -> None:
    alone = scores_of([item for item in ITEMS if item.language == "mt"], "exact_answer", resamples=200, seed=0)
    together = scores_of(ITEMS, "exact_answer", resamples=200, seed=0)
    assert [row for row in alone if row.language == "mt"] == [row for row in together if row.language == "mt"]


def test_languages_are_drawn_independently_of_each_other() -> None:
    twins = [Measured(language, "t", float(n % 3 > 0), 1.0) for language in ("cs", "sk") for n in range(60)]
    rows = {row.language: row for row in scores_of(twins, "exact_answer", resamples=2000, seed=0) if row.task == "all"}
    width, mean_width = (rows[language].high - rows[language].low for language in ("cs", "mean"))
    assert mean_width == pytest.approx(width / 2**0.5, rel=0.15)


def test_no_items_give_no_rows() -> None:
    assert scores_of([], "exact_answer", resamples=200, seed=0) == []


def test_scores_survive_the_file_and_the_file_has_the_promised_columns(tmp_path: Path) -> None:
    for rows in (scores_of(ITEMS, "exact_answer", resamples=200, seed=0), []):
        save_scores(rows, tmp_path / "scores.json")
        assert load_scores(tmp_path / "scores.json") == rows
    assert list(vars(Score("mt", "all", "exact_answer", 0.5, 0.4, 0.6, 3))) == [
        *("language", "task", "metric", "value", "low", "high", "n")
    ]


def test_the_table_has_a_line_a_language_with_its_name_and_the_mean_last() -> None:
    rows = scores_of(ITEMS, "exact_answer", resamples=200, seed=0)
    rows += scores_of([Measured("mt", "sum", 1.0, 8.0)], "second_answer", resamples=200, seed=0)
    rows += scores_of([Measured("mt", "atlas", 20.0, 10.0)], "bits_per_byte", resamples=200, seed=0)
    table = language_rows(rows, {"mt": 1.5})
    assert [row.code for row in table] == ["el", "mt", "mean"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table(table))
    lines = console.export_text().splitlines()
    assert lines[2].split() == ["mt", "Maltese", "37.5%", *lines[2].split()[3:6], "12.5%", "2.000", "1.50"]
    assert "Greek" in lines[1] and lines[3].startswith("mean")
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)


def test_the_table_needs_no_torch() -> None:
    code = "import sys, hanse.evaluate.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
