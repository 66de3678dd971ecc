"""What a person sees while a recipe runs: a heading a stage, a bar on long work, a table at the end. All on stderr."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hanse.store.stage import Built

if TYPE_CHECKING:
    from hanse.pipeline import Outcome
    from hanse.report.figures import Language

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal to draw a bar on


class Console:
    """Headings, progress and warnings of a run; `is_quiet` prints none, as on all ranks but the first."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.rich = RichConsole(stderr=True, highlight=False, quiet=is_quiet)
        self.is_live = self.rich.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._started = 0.0
        self._printed = 0.0

    def begin(self, title: str, ref: str) -> None:
        """Open a stage."""
        self._started = self._printed = time.monotonic()
        self.rich.print(f"[bold]{title}[/bold]  [dim]{escape(ref)}[/dim]")

    def end(self, built: Built) -> None:
        """Close a stage: how long it took, or that nothing had to be done, or how it differs from the recipe.

        What its record says of contracts comes with it.
        """
        self._close()
        seconds = time.monotonic() - self._started
        if built.state == "made":
            self.rich.print(f"  [green]made[/green] in {duration(seconds)}, sha256 {built.artifact.digest[:16]}")
        elif built.state == "unchanged":
            self.rich.print(f"  [dim]unchanged, {escape(built.artifact.ref)}[/dim]")
        else:
            self.warn(f"{built.artifact.ref} was made from another definition and is kept:")
            for line in built.drift:
                self.rich.print(f"    {escape(line)}")
            self.rich.print("    To make the changed one, raise `version` in the recipe (or --set version=...).")
        for told in built.artifact.facts.get("contracts", ()):
            self.warn(told)

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Report `done` of `total` units of long work; a bar on a terminal, a line now and then elsewhere."""
        if not self.is_live:
            self._plain(label, done, total)
            return
        if self._bar is None or label != self._label:
            self._close()
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.rich, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(escape(label), total=total)
            self._label = label
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)
        if total is not None and done >= total:
            self._close()

    def say(self, text: str) -> None:
        """A plain line of the running stage."""
        self._close()
        self.rich.print(f"  {escape(text)}")

    def warn(self, text: str) -> None:
        """A line that asks for attention."""
        self._close()
        self.rich.print(f"  [yellow]warning:[/yellow] {escape(text)}")

    def summary(self, outcome: Outcome) -> None:
        """The end of a run: a table of the languages, what was made, and what to do next."""
        from hanse.evaluate.scores import as_table, language_rows, load_scores

        evaluation, tokenizer = outcome.artifact("evaluation"), outcome.artifact("tokenizer")
        if evaluation is not None and tokenizer is not None:
            measured = json.loads((tokenizer.path / "premium.json").read_text())["languages"]
            premium = {row["language"]: row["premium"] for row in measured if row["premium"] is not None}
            self.rich.print(as_table(language_rows(load_scores(evaluation.path / "scores.json"), premium)))
        last = outcome.built[-1].artifact
        self.rich.print(f"\n[bold]{escape(last.ref)}[/bold] lies in {escape(str(last.path))}")
        if last.kind == "release":
            for command in (
                f"hanse chat --model {last.name}",
                f"hanse verify {last.kind}/{last.name}",
                f"hanse lineage {last.kind}/{last.name}",
            ):
                self.rich.print(f"  {command}")

    def languages(self, rows: Sequence[Language]) -> None:
        """The end of the data: a line for each language that is kept, and one for all others."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, title in enumerate(("language", "read", "kept", "dropped", "text", "tokens", "premium", "reasons")):
            table.add_column(title, justify="right" if 0 < number < 7 else "left", no_wrap=number < 7)
        kept = sorted((row for row in rows if row.kept), key=lambda row: row.code)
        for row in kept:
            table.add_row(*_data_cells(row))
        others = [row for row in rows if not row.kept]
        if others:
            documents = sum(row.read for row in others)
            why: Counter[str] = Counter()
            for row in others:
                why.update(dict(row.reasons))
            reasons = tuple(sorted(why.items(), key=lambda item: (-item[1], item[0])))
            table.add_row(
                f"{len(others)} others", f"{documents:,}", "0", f"{documents:,}", "-", "-", "-", _reasons(reasons)
            )
        self.rich.print(table)

    def _plain(self, label: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self.rich.print(f"  {escape(label)}: {done:,}" + (f" of {total:,}" if total else ""))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._label = None, None, ""


def _data_cells(row: Language) -> tuple[str, ...]:
    from hanse.report.plain import size

    tokens = "-" if row.tokens is None else f"{row.tokens:,}"
    premium = "-" if row.premium is None else f"{row.premium:.2f}"
    counts = (f"{row.read:,}", f"{row.kept:,}", f"{row.dropped:,}")
    return (escape(row.code), *counts, size(row.bytes), tokens, premium, _reasons(row.reasons))


def _reasons(reasons: Sequence[tuple[str, int]]) -> str:
    return escape(", ".join(f"{reason} {documents:,}" for reason, documents in reasons[:3]))


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
