"""How long a person waits for `hanse --help`: wall seconds of whole processes, warm; the bar is a median under 0.3 s.

python bench/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import conditions


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "startup.json")
    options = parser.parse_args()
    hanse = str(Path(sys.executable).with_name("hanse"))
    commands = {"hanse --help": [hanse, "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(options.rounds + 1):
        for name, command in commands.items():
            found = seconds(command)
            if round_number:  # the first one only warms the file cache
                taken[name].append(found)
    rows = {
        name: {"median": round(statistics.median(s), 3), "min": round(min(s), 3), "max": round(max(s), 3)}
        for name, s in taken.items()
    }
    for name, row in rows.items():
        print(f"{name:<16} median {row['median']:.3f} s  (min {row['min']:.3f}, max {row['max']:.3f})")
    result = conditions.conditions() | rows
    conditions.store(result, options.output)


if __name__ == "__main__":
    main()
