"""CPU seconds to verify a release of 1 GB: the release's own `verify.py`, and the OpenSSF reference tool beside it.

python bench/verify.py [--gigabytes 1] [--rounds 5]

The release is made here, of random bytes in safetensors form, with the records that a real one has, and deleted after.
CPU seconds are user plus system time of the whole process, start of Python included; the file cache is warm.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import conditions

from hanse.release import sign, verifier
from hanse.store.stage import Artifact, Store, Work

BAR_SECONDS = 2.0
SHARDS = 4
PIECE = 1 << 24
REFERENCE = Path(sys.executable).with_name("model_signing")


def write_weights(path: Path, size: int) -> None:
    """One tensor of `size` random bytes."""
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    )
    text = header.encode() + b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, size, PIECE):
            stream.write(os.urandom(min(PIECE, size - start)))


def make_release(store: Store, size: int, key_path: Path) -> Artifact:
    """A release of `size` bytes, signed, with the record of the model that it is a copy of."""
    key = sign.load_or_create_key(key_path)

    def weigh(work: Work) -> None:
        for number in range(SHARDS):
            write_weights(work.folder / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors", size // SHARDS)

    model = store.build("model", "bench", "1", definition={"bytes": size}, inputs={}, make=weigh).artifact

    def publish(work: Work) -> None:
        for path in sorted(model.path.glob("*.safetensors")):
            os.link(path, work.folder / path.name)
        provenance = work.folder / verifier.PROVENANCE
        provenance.mkdir()
        shutil.copyfile(model.path / "step.json", provenance / "model-bench-1.json")
        shutil.copyfile(model.path / "SHA256SUMS", provenance / "model-bench-1.SHA256SUMS")
        (work.folder / verifier.PUBLIC_KEY).write_text(sign.public_pem(key))
        shutil.copyfile(Path(verifier.__file__), work.folder / "verify.py")
        work.seal(
            verifier.SIGNATURE,
            lambda folder, sums: (
                (folder / verifier.SIGNATURE).write_text(sign.bundle(sums, name="bench", key=key)) and None
            ),
        )

    return store.build("release", "bench", "1", definition={}, inputs={"model": model}, make=publish).artifact


def cpu_seconds(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a process that has to succeed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - started


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, dict[str, float]]:
    """Median, smallest and largest CPU seconds by contender, in turns; the first round only warms the file cache."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            found = cpu_seconds(command)
            if number:
                taken[name].append(found)
    return {
        name: {
            "cpu_seconds": round(statistics.median(cpu for cpu, _ in found), 3),
            "cpu_min": round(min(cpu for cpu, _ in found), 3),
            "cpu_max": round(max(cpu for cpu, _ in found), 3),
            "wall_seconds": round(statistics.median(wall for _, wall in found), 3),
        }
        for name, found in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "verify.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hanse-verify-") as place:
        store = Store.open(Path(place) / "store")
        key = Path(place) / "key.pem"
        release = make_release(store, int(options.gigabytes * 1e9), key)
        public = release.path / verifier.PUBLIC_KEY
        commands = {
            "verify.py": [
                sys.executable,
                "-I",
                str(release.path / "verify.py"),
                str(release.path),
                "--key",
                str(public),
            ]
        }
        if REFERENCE.exists():
            signature = str(release.path / verifier.SIGNATURE)
            commands["OpenSSF model_signing"] = [
                str(REFERENCE), "verify", "key", str(release.path), "--signature", signature,
                "--public_key", str(public),
            ]  # fmt: skip
        commands["sha256sum -c"] = ["sh", "-c", f"cd '{release.path}' && sha256sum --quiet -c SHA256SUMS"]
        rows = measure(commands, options.rounds)
    for name, row in rows.items():
        print(
            f"{name:<22} {row['cpu_seconds']:.2f} CPU s (min {row['cpu_min']:.2f}, max {row['cpu_max']:.2f}), "
            f"{row['wall_seconds']:.2f} s wall"
        )
    holds = rows["verify.py"]["cpu_seconds"] < BAR_SECONDS
    print(f"bar: verify.py below {BAR_SECONDS:.0f} CPU s for {options.gigabytes:g} GB: {'met' if holds else 'MISSED'}")
    result = conditions.conditions("cryptography") | {
        "gigabytes": options.gigabytes, "rounds": options.rounds,
        "bar_cpu_seconds": BAR_SECONDS, **rows,
    }  # fmt: skip
    conditions.store(result, options.output)


if __name__ == "__main__":
    main()
