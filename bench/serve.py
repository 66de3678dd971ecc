"""Serving speed: our engine against transformers' `generate` and continuous batching; llama.cpp bare and through us.

All contenders hold the same weights, get the same prompts, answer greedily and do not stop at end tokens. Each lives in
a process of its own and the processes take turns (A B C A B C ...), so that a busy neighbour hits all alike; medians of
the rounds are compared, and each side is taken at its best for the number of streams.

    python bench/serve.py [--size 100M] [--release FOLDER] [--trained FOLDER] [--streams 1 4 16] [--rounds 5]
                          [--threads 2] [--prompt 128] [--answer 64] [--device cpu] [--only NAME ...]
                          [--output bench/results/serve.json]

Without `--release` the model is made on the spot: random weights, latent attention, 11M parameters and 16 experts, or
the sizes that a recipe of `--size` has. With `--trained`, a folder whose multi-token block was trained, proposals are
counted and timed too: docs/serving-speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import conditions
import serving

# As many as `hanse serve` lets llama.cpp answer at a time.
LLAMA_STREAMS = 8
# (name, function of serving, settings); a "threads" among the settings replaces --threads.
CONTENDERS: list[tuple[str, str, dict[str, Any]]] = [
    ("hanse", "hanse", {}),
    ("hanse, 1 thread", "hanse", {"threads": 1}),
    ("hanse, compiled", "hanse", {"compiles": True}),
    ("hanse, compiled, 1 thread", "hanse", {"compiles": True, "threads": 1}),
    ("transformers, eager experts", "transformers_generate", {"experts": "eager"}),
    ("transformers, eager experts, 1 thread", "transformers_generate", {"experts": "eager", "threads": 1}),
    ("transformers, grouped_mm", "transformers_generate", {"experts": "grouped_mm"}),
    ("transformers, batched_mm", "transformers_generate", {"experts": "batched_mm"}),
    ("transformers, eager experts and attention", "transformers_generate", {"experts": "eager", "attention": "eager"}),
    ("transformers, eager experts, static cache", "transformers_generate", {"experts": "eager", "cache": "static"}),
    (
        "transformers, grouped_mm, static cache, compiled",
        "transformers_generate",
        {"experts": "grouped_mm", "cache": "static", "compile": True},
    ),
    ("transformers, continuous batching", "transformers_batching", {"experts": "eager"}),
    ("llama.cpp, F32, bare", "llama_bare", {"parallel": LLAMA_STREAMS}),
    ("llama.cpp, F32, through hanse serve", "hanse_serve", {"engine": "llama.cpp"}),
    ("served: hanse, through hanse serve", "hanse_serve", {"engine": "native"}),
    ("served: hanse, 1 thread, through hanse serve", "hanse_serve", {"engine": "native", "threads": 1}),
]
OURS = ("hanse", "hanse, 1 thread", "hanse, compiled", "hanse, compiled, 1 thread")
PROPOSALS: list[tuple[str, str, dict[str, Any]]] = [
    ("one token a step", "hanse", {}),
    ("with proposals", "hanse", {"speculate": True}),
]
PREFIX_TOKENS = 768
PATIENCE_SECONDS = 400  # compiling takes minutes


class Contender:
    """A contender's process: it prepares, says so, and answers what it is sent."""

    def __init__(self, name: str, function: str, settings: dict[str, Any], folder: Path, options: argparse.Namespace):
        self.name = name
        threads = settings.get("threads", options.threads)
        work = {"function": function, "folder": str(folder), "settings": settings, "device": options.device}
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(work | {"threads": threads})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip
        self.failed: str | None = None
        self._read()

    def ask(self, prompts: list[list[int]], tokens: int) -> dict[str, Any] | None:
        """One run; None if the contender cannot."""
        if self.failed is None:
            assert self._process.stdin
            self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
            self._process.stdin.flush()
            return self._read()
        return None

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout
        is_there, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
        if not is_there:
            self._process.kill()
            self.failed = f"nothing came for {PATIENCE_SECONDS} seconds"
            return None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        told = dict.fromkeys(line.strip()[:300] for line in self._log if re.match(r"[\w.]*(Error|hanse): ", line))
        self.failed = "; ".join(list(told)[-2:]) or f"exit code {self._process.returncode}"
        return None

    def close(self) -> None:
        """End the process by closing its input, and wait for it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


@contextmanager
def contenders(which, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Contender]]:
    """All processes of a comparison, ready."""
    running: dict[str, Contender] = {}
    try:
        for name, function, settings in which:
            print(f"preparing {name} ...", file=sys.stderr, flush=True)
            running[name] = Contender(name, function, settings, folder, options)
        yield running
    finally:
        for contender in running.values():
            contender.close()


def work(given: dict[str, Any]) -> None:
    """A contender's process."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    answer = getattr(serving, given["function"])(
        Path(given["folder"]), given["settings"], given["device"], given["threads"]
    )
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        cpu = time.process_time()
        run = answer(asked["prompts"], asked["tokens"])
        if given["function"] not in ("llama_bare", "hanse_serve"):  # which compute in another process
            run["cpu"] = time.process_time() - cpu
        print(json.dumps(run), file=out, flush=True)
    getattr(answer, "close", int)()
    out.flush()
    os._exit(0)  # some thread pools do not end by themselves


def prompts(streams: int, length: int, vocabulary: int, seed: str) -> list[list[int]]:
    """Random prompts of plain tokens, others for every seed, so that no cache knows them."""
    numbers = random.Random(seed)
    return [[numbers.randrange(32, vocabulary - 32) for _ in range(length)] for _ in range(streams)]


def compare(running: dict[str, Contender], vocabulary: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Runs of every contender by streams: {streams: {name: summary}}."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for streams in options.streams:
        for number in range(-1, options.rounds):  # the first one warms up
            asked = prompts(streams, options.prompt, vocabulary, f"{streams} {number}")
            for name, contender in running.items():
                run = contender.ask(asked, options.answer)
                if number >= 0 and run is not None:
                    found.setdefault(str(streams), {}).setdefault(name, []).append(run)
        print(f"{streams} streams measured", file=sys.stderr, flush=True)
    summaries: dict[str, dict[str, Any]] = {}
    for streams, of in found.items():
        own = next((of[name] for name in OURS if name in of), [])
        summaries[streams] = {name: summarise(runs) | agreement(runs, own) for name, runs in of.items()}
    return summaries


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; latencies over all streams of all rounds."""
    rates = sorted(sum(map(len, run["said"])) / run["wall"] for run in runs)
    summary: dict[str, Any] = {
        "tokens_per_second": round(statistics.median(rates), 1),
        "tokens_per_second_slowest": round(rates[0], 1),
        "tokens_per_second_fastest": round(rates[-1], 1),
        "wall_seconds": [round(run["wall"], 4) for run in runs],
    }
    if "cpu" in runs[0]:
        per_cpu = [sum(map(len, run["said"])) / run["cpu"] for run in runs]
        summary["tokens_per_cpu_second"] = round(statistics.median(per_cpu), 1)
    first, gaps = ([value for run in runs for value in run[key]] for key in ("first", "gaps"))
    if first and gaps:
        summary["first_token_ms"] = round(statistics.median(first) * 1e3, 2)
        ordered = sorted(gaps)
        summary["inter_token_ms_p50"] = round(statistics.median(ordered) * 1e3, 2)
        summary["inter_token_ms_p95"] = round(ordered[int(0.95 * (len(ordered) - 1))] * 1e3, 2)
    if "cache_bytes" in runs[0]:
        summary["cache_bytes_per_token"] = round(runs[0]["cache_bytes"])
    return summary


def agreement(runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of the answers that are ours token for token; servers tell no token ids."""
    pairs = [pair for run, own in zip(runs, ours, strict=False) for pair in zip(run["said"], own["said"], strict=False)]
    told = [(theirs, mine) for theirs, mine in pairs if any(theirs)]
    return {"same_answers": round(sum(a == b for a, b in told) / len(told), 3)} if told else {}


def best(of: dict[str, dict[str, Any]], side: str, by: str = "tokens_per_second") -> tuple[str, dict[str, Any]]:
    """The contender of one side with the most tokens per second."""
    mine = [(name, row) for name, row in of.items() if name.startswith(side)]
    return max(mine, key=lambda pair: pair[1][by], default=("", {}))


def verdict(of: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Best against best, and what our API costs llama.cpp."""
    found: dict[str, Any] = {}
    (our_name, ours), (their_name, theirs) = best(of, "hanse"), best(of, "transformers")
    if ours and theirs:
        found["hanse"], found["transformers"] = our_name, their_name
        found["speed_ratio"] = round(ours["tokens_per_second"] / theirs["tokens_per_second"], 2)
        # Round by round, runs that came one after the other: what a neighbour's load does to both cancels out.
        found["paired_speed_ratio"] = round(
            statistics.median(b / a for a, b in zip(ours["wall_seconds"], theirs["wall_seconds"], strict=True)), 2
        )
        # On a machine that others use too, seconds of the processor are the steadier of the two.
        cheapest = (best(of, side, "tokens_per_cpu_second")[1] for side in ("hanse", "transformers"))
        our_rate, their_rate = (row["tokens_per_cpu_second"] for row in cheapest)
        found["cpu_second_ratio"] = round(our_rate / their_rate, 2)
    bare, through = of.get("llama.cpp, F32, bare"), of.get("llama.cpp, F32, through hanse serve")
    if bare and through:
        found["llama_through_us"] = round(through["tokens_per_second"] / bare["tokens_per_second"], 3)
        found["paired_llama_through_us"] = round(
            statistics.median(a / b for a, b in zip(bare["wall_seconds"], through["wall_seconds"], strict=True)), 3
        )
    return found


def cache_sizes(folder: Path) -> dict[str, Any]:
    """Bytes that the past of one token takes in all layers, float32: the latent, and keys and values expanded."""
    from hanse.model.config import ModelConfig
    from hanse.model.hf import load

    config = load(folder, with_mtp=False).config
    if not isinstance(config, ModelConfig):
        return {}
    latent = 4 * config.num_hidden_layers * config.cache_width
    expanded = 4 * config.num_hidden_layers * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    return {"latent": latent, "expanded": expanded, "ratio": round(expanded / latent, 2)}


def prefix_effect(contender: Contender, vocabulary: int, options: argparse.Namespace, context: int) -> dict[str, Any]:
    """Time to the first token of a long prompt, new and known."""
    length = min(PREFIX_TOKENS, context - 16)
    new, known, found = [], [], 0
    for number in range(options.rounds):
        asked = prompts(1, length, vocabulary, f"prefix {number}")
        for into in (new, known):
            run = contender.ask(asked, 8)
            assert run is not None
            into.append(run["first"][0])
            found = run["cached"]
    return {
        "prompt_tokens": length,
        "found_tokens": found,
        "first_token_ms_new": round(statistics.median(new) * 1e3, 2),
        "first_token_ms_known": round(statistics.median(known) * 1e3, 2),
    }


def proposals(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the multi-token block of a trained model brings: on beginnings of texts like those it learned from."""
    from tokenizers import Tokenizer

    from hanse.data.atlas.generate import documents
    from hanse.languages import EU24

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = {text["language"]: text["text"] for text in documents(EU24, seed=0, passes=1)}
    begun = [tokenizer.encode(text, add_special_tokens=False).ids[:24] for text in texts.values()]
    result: dict[str, Any] = {"folder": folder.name, "prompts": len(begun), "streams": {}}
    with contenders(PROPOSALS, folder, options) as running:
        for streams in options.streams:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
            for start in range(0, len(begun) - streams + 1, streams):
                for name, contender in running.items():
                    run = contender.ask(begun[start : start + streams], options.answer)
                    if run is None:
                        return {"failed": contender.failed}
                    runs[name].append(run)
            plain, proposed = (runs[name] for name, _, _ in PROPOSALS)
            drafted, accepted = (sum(run[key] for run in proposed) for key in ("drafted", "accepted"))
            ratios = [a["wall"] / b["wall"] for a, b in zip(plain, proposed, strict=True)]
            result["streams"][str(streams)] = {
                "proposed": drafted,
                "right": accepted,
                "acceptance": round(accepted / drafted, 3) if drafted else None,
                "speed_ratio": round(statistics.median(ratios), 2),
                "same_answers": all(a["said"] == b["said"] for a, b in zip(plain, proposed, strict=True)),
            }  # fmt: skip
    return result


def show(streams: str, of: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    """Print the table for one number of streams."""
    print(f"\n{streams} streams")
    print(
        f"{'':44}{'tokens/s':>10}{'spread':>14}{'per CPU s':>11}{'first ms':>10}{'p50 ms':>9}{'p95 ms':>9}{'same':>7}"
    )
    for name, row in of.items():
        spread = f"{row['tokens_per_second_slowest']:.0f}-{row['tokens_per_second_fastest']:.0f}"
        latencies = [row.get(key) for key in ("first_token_ms", "inter_token_ms_p50", "inter_token_ms_p95")]
        per_cpu = format(row["tokens_per_cpu_second"], ".0f") if "tokens_per_cpu_second" in row else "-"
        cells = "".join(f"{'-' if value is None else format(value, '.2f'):>{width}}"
                        for value, width in zip(latencies, (10, 9, 9), strict=True))  # fmt: skip
        same = row.get("same_answers")
        agreeing = "-" if same is None else f"{same:.0%}"
        print(f"{name:44}{row['tokens_per_second']:>10.0f}{spread:>14}{per_cpu:>11}{cells}{agreeing:>7}")
    if "speed_ratio" in found:
        print(f"best against best: {found['speed_ratio']} times transformers (round by round "
              f"{found['paired_speed_ratio']}, per CPU second {found['cpu_second_ratio']})")  # fmt: skip
    if "llama_through_us" in found:
        print(f"llama.cpp through our API: {found['llama_through_us']:.1%} of it bare (round by round "
              f"{found['paired_llama_through_us']:.1%})")  # fmt: skip


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The comparison, and what else our engine is to show, on one folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    context, vocabulary = config["max_position_embeddings"], config["vocab_size"]
    if options.prompt + options.answer > context:
        sys.exit(f"--prompt {options.prompt} and --answer {options.answer} exceed the {context} tokens of the model")
    which = [
        one for one in CONTENDERS
        if any(part in one[0] for part in options.only) and not any(part in one[0] for part in options.without)
    ]  # fmt: skip
    result: dict[str, Any] = {"config": config}
    with contenders(which, folder, options) as running:
        result["streams"] = compare(running, vocabulary, options)
        if ours := [running[name] for name in OURS if name in running and running[name].failed is None]:
            result["prefix"] = prefix_effect(ours[0], vocabulary, options, context)
        result["failed"] = {name: contender.failed for name, contender in running.items() if contender.failed}
    result["verdicts"] = {streams: verdict(of) for streams, of in result["streams"].items()}
    theirs = best(next(iter(result["streams"].values())), "transformers")[1]
    result["cache_bytes_per_token"] = cache_sizes(folder) | {"transformers": theirs.get("cache_bytes_per_token")}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", help="active parameters of the random model, as in a recipe (100M)")
    parser.add_argument("--release", type=Path, help="measure this model folder instead of a random model")
    parser.add_argument("--trained", type=Path, help="a folder with a trained multi-token block")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=[""], help="contenders whose names have one of these in them")
    parser.add_argument("--without", nargs="+", default=[], help="and none of these")
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "serve.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(json.loads(options.worker))
        return
    result: dict[str, Any] = conditions.conditions("torch", "transformers", threads=options.threads) | {
        "what": "greedy answers, float32, medians of interleaved rounds; time includes reading the prompts",
        "device": options.device,
        "prompt_tokens": options.prompt,
        "answer_tokens": options.answer,
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.release or Path(temporary)
        if options.release is None:
            serving.make_model(folder, options.size)
        result |= measure(folder, options)
    result["sampling_us_per_row"] = serving.sampling(options.threads)
    if options.trained:
        result["proposals"] = proposals(options.trained, options)
    for streams, of in result["streams"].items():
        show(streams, of, result["verdicts"][streams])
    for name, reason in result["failed"].items():
        print(f"{name}: does not run here: {reason}")
    for key in ("cache_bytes_per_token", "prefix", "proposals", "sampling_us_per_row"):
        print(f"{key}: {json.dumps(result.get(key, 'not measured: give --trained'))}")
    conditions.store(result, options.output)


if __name__ == "__main__":
    main()
