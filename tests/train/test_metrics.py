"""The metrics file and the progress lines."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hanse.train import metrics
from hanse.train.metrics import MetricsLog, ProgressReport, aligned, clock, read_rows


def test_lines_of_steps_after_the_checkpoint_are_cut_off_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, keep_steps=0)
    for step in range(1, 6):
        log.write({"step": step, "loss": 1.0 / step})
    path.write_text(path.read_text() + '{"step": 6, "lo')  # a crash in mid-line
    again = MetricsLog(path, keep_steps=3)
    again.write({"step": 4, "loss": 9.0})
    again.close(copy_to=tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == 9.0
    assert rows == again.rows


def test_every_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", keep_steps=0)
    log.write({"step": 1})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1}]
    log.close()


def test_without_a_terminal_a_plain_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: now))
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=200)
    with ProgressReport(100, done=0, label="pretrain", console=console) as report:
        for step in range(1, 101):
            now += 1.0
            report.update(step, loss=2.0, tokens_per_second=12345.6)
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "pretrain: step 10/100, loss 2.000, 12,346 tokens/s, 1:30 left"
    assert lines[-1].endswith("0:00 left")


def test_on_a_terminal_a_bar_shows_the_loss() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with ProgressReport(4, done=0, label="tune", console=console) as report:
        report.update(2, loss=1.25, tokens_per_second=1000.0)
        report.say("a line [with] brackets")
    text = out.getvalue()
    assert all(part in text for part in ("1.250", "2/4", "a line [with] brackets")), text


def test_table_columns_line_up() -> None:
    assert aligned([("a", "b"), ("long", "1")]) == ["a     b", "long  1"]
    assert aligned([]) == []


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
