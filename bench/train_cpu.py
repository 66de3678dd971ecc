"""Training speed and memory on a CPU: our model against transformers' DeepseekV3ForCausalLM, same weights and batch.

One step is forward, next-token loss, backward and a fused AdamW step, over real text: documents of a corpus, packed
into rows and kept apart, by our layout here, by position ids there. Each contender lives in a process of its own; the
processes take turns (A B C A B C ...), so that a busy neighbour hits all alike, and medians are compared. Wall seconds
decide; CPU seconds stand beside them, because on a shared machine they are the steadier of the two. The share of this
machine's matrix rate is of one product as training has it, measured in each contender's process; it counts the
operations that the model needs, attention within documents alone.

    python bench/train_cpu.py [--config experts-16 experts-64 dense] [--lengths 512 2048] [--rows-alone]
                              [--rounds 7] [--threads 2] [--skip-compile] [--corpus ../shared/corpus]
                              [--output bench/results/train_cpu.json]
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import conditions

TOKENS, BATCHES, VOCABULARY = 4096, 4, 8192  # a step's tokens, in rows of --lengths
# (name, whose, settings). transformers offers three ways through its experts; batched_mm is some 30 times slower.
CONTENDERS: list[tuple[str, str, dict[str, Any]]] = [
    ("hanse, eager", "hanse", {}),
    ("hanse, compiled", "hanse", {"compile": True}),
    ("transformers, eager experts", "transformers", {"experts": "eager"}),
    ("transformers, grouped_mm", "transformers", {"experts": "grouped_mm"}),
    ("transformers, eager experts, compiled", "transformers", {"experts": "eager", "compile": True}),
    ("transformers, grouped_mm, compiled", "transformers", {"experts": "grouped_mm", "compile": True}),
]
CONFIGS = ("experts-16", "experts-64", "dense")


def sizes(config: str = "experts-16"):
    """About 11M parameters in 6 layers: 16 experts, 4 a token; 64 of a quarter the width, 8 a token; or dense."""
    from hanse.model.config import ModelConfig

    experts = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        q_lora_rank=128,
        kv_lora_rank=64,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=1,
        first_k_dense_replace=1,
        max_position_embeddings=1024,
    )
    if config == "experts-64":  # fine-grained, as the presets from 100M active parameters up
        return replace(experts, n_routed_experts=64, num_experts_per_tok=8, moe_intermediate_size=48).check()
    if config == "dense":
        return replace(experts, n_routed_experts=0, moe_intermediate_size=0, first_k_dense_replace=0).check()
    return experts.check()


def prepare(folder: Path, corpus: Path, config: str, length: int, *, is_packed: bool) -> None:
    """Weights, and batches of real text: token ids and the number of each token's document, (BATCHES, rows, length)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from hanse.model import hf
    from hanse.model.transformer import Transformer

    model = Transformer(replace(sizes(config), max_position_embeddings=length))
    hf.save(model.init_weights(torch.Generator().manual_seed(0)), folder)
    texts = []
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in itertools.islice(lines, 12)]
    texts = [texts[number] for number in torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        (text[:20_000] for text in texts),
        trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False),
    )
    ids, documents = [], []
    for number, text in enumerate(texts):
        found = tokenizer.encode(text[:8_000]).ids
        ids += found
        documents += [number] * len(found)
    shape = (BATCHES, TOKENS // length, length)
    count = BATCHES * TOKENS
    tokens, places = torch.tensor(ids[:count]).view(shape), torch.tensor(documents[:count]).view(shape)
    torch.save(
        {"tokens": tokens, "documents": places if is_packed else torch.zeros_like(places)}, folder / "batches.pt"
    )


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; without it bf16 is a hundred times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def work(whose: str, settings: dict[str, Any], folder: Path, threads: int) -> None:
    """A contender's process: prepare, say so, then run one step for each line on stdin and report it."""
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if has_fast_bf16() else None
    step = (_ours if whose == "hanse" else _theirs)(folder, settings, dtype)
    given = torch.load(folder / "batches.pt")
    batches = list(zip(given["tokens"], given["documents"], strict=True))
    losses: list[float] = []

    def timed(number: int) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        losses.append(step(*batches[number % len(batches)]))
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    first = timed(0)
    timed(1)
    context = visible(given["documents"])
    print(
        json.dumps({"first": first, "losses": losses, "matrix_rate": matrix_rate(dtype), "context": context}),
        flush=True,
    )
    for number, _ in enumerate(sys.stdin):
        report = timed(number + 2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(report | {"peak_mib": peak / 1024, "loss": losses[-1]}), flush=True)


def visible(documents) -> int:
    """Length of a token's part of its document in its row, mean over tokens; documents (..., length).

    Causal attention over packed documents takes as many operations as over whole rows of this length.
    """
    lengths = [
        part for row in documents.flatten(0, -2) for part in row.unique_consecutive(return_counts=True)[1].tolist()
    ]
    return round(sum(part * part for part in lengths) / sum(lengths))


def _optimizer(model):
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)


def _autocast(dtype):
    import torch

    return torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)


def _ours(folder: Path, settings: dict[str, Any], dtype):
    import torch

    from hanse.model import hf
    from hanse.model.loss import next_token_loss

    model = hf.load(folder).train()
    optimizer = _optimizer(model)
    if settings.get("compile"):
        model.compile()

    def step(tokens, documents):
        targets = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), 1)
        ends = torch.cat((documents[:, 1:] != documents[:, :-1], torch.ones_like(tokens[:, :1], dtype=torch.bool)), 1)
        with _autocast(dtype):
            total, count = next_token_loss(model, model(tokens, documents), targets.masked_fill(ends, -100))
        loss = total / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_router_bias(0.0)
        return float(loss.detach())

    return step


def _theirs(folder: Path, settings: dict[str, Any], dtype):
    import torch
    from transformers import DeepseekV3ForCausalLM

    model = DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation=settings["experts"], attn_implementation="sdpa"
    ).train()
    optimizer = _optimizer(model)
    if settings.get("compile"):
        model.compile()

    def step(tokens, documents):
        begins = torch.cat((torch.ones_like(tokens[:, :1], dtype=torch.bool), documents[:, 1:] != documents[:, :-1]), 1)
        places = torch.arange(tokens.shape[1]).expand_as(tokens)
        positions = places - torch.where(begins, places, 0).cummax(1).values
        labels = tokens.masked_fill(begins, -100)
        # Position ids that start anew make transformers mask other documents out; without them rows stay causal.
        packing = {"position_ids": positions} if bool((positions[:, -1] < tokens.shape[1] - 1).any()) else {}
        with _autocast(dtype):
            loss = model(input_ids=tokens, labels=labels, use_cache=False, **packing).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def matrix_rate(dtype, seconds: float = 0.5) -> float:
    """FLOP per second of one product as training has it, in the type of training."""
    import torch

    left, right = (torch.randn(shape, dtype=dtype or torch.float32) for shape in ((TOKENS, 256), (256, 1024)))
    left @ right
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        left @ right
        rounds += 1
    return rounds * 2 * left.shape[0] * left.shape[1] * right.shape[1] / (time.perf_counter() - began)


def start(name: str, folder: Path, threads: int) -> subprocess.Popen[str]:
    """Start a contender's process; its log goes beside the weights."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    # OpenMP's own waiting policy: it spins, which both sides need (LOG.md), and is asleep when another's turn comes.
    for policy in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(policy, None)
    # A cache of its own, so that the compile time is that of a first run. No blanks: the C++ compiler splits there.
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / re.sub(r"\W+", "-", name))
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--folder", str(folder), "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )


def measure(names: list[str], config: str, length: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Let all contenders take turns; returns a row for each."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options.corpus, config, length, is_packed=not options.rows_alone)
        rows: dict[str, dict[str, Any]] = {}
        running: dict[str, subprocess.Popen[str]] = {}
        for name in names:
            print(f"preparing {name} ...", file=sys.stderr, flush=True)
            process = start(name, folder, options.threads)
            line = process.stdout.readline() if process.stdout else ""
            if line:
                running[name], rows[name] = process, {"name": name, **json.loads(line), "steps": []}
            else:
                log = (folder / f"{name}.log").read_text(encoding="utf-8").strip().splitlines()
                rows[name] = {"name": name, "failed": log[-1][:200] if log else f"exit code {process.wait()}"}
        for _ in range(options.rounds):
            for name, process in running.items():
                assert process.stdin and process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                rows[name]["steps"].append(json.loads(process.stdout.readline()))
        for process in running.values():
            assert process.stdin
            process.stdin.close()
            process.wait()
    return {name: summarise(row, config) for name, row in rows.items()}


def summarise(row: dict[str, Any], config: str) -> dict[str, Any]:
    """Medians and spread of a contender's steps."""
    if "failed" in row:
        return row
    wall = sorted(step["wall"] for step in row["steps"])
    cpu = [step["cpu"] for step in row["steps"]]
    median = statistics.median(wall)
    return {
        "name": row["name"],
        "tokens_per_second": round(TOKENS / median, 1),
        "tokens_per_second_slowest": round(TOKENS / wall[-1], 1),
        "tokens_per_second_fastest": round(TOKENS / wall[0], 1),
        "tokens_per_cpu_second": round(TOKENS / statistics.median(cpu), 1),
        "visible_context": row["context"],
        "share_of_matrix_rate": round(
            sizes(config).flop_per_token(row["context"]) * TOKENS / median / row["matrix_rate"], 3
        ),
        "wall_seconds": [round(step["wall"], 3) for step in row["steps"]],
        "peak_memory_mib": round(max(step["peak_mib"] for step in row["steps"])),
        # Above a step's time, the first call is compilation.
        "compile_seconds": round(max(0.0, row["first"]["wall"] - median), 1) if "compiled" in row["name"] else 0.0,
        "first_loss": row["losses"][0],
        "last_loss": row["steps"][-1]["loss"],
    }


def best(rows: dict[str, dict[str, Any]], whose: str) -> dict[str, Any]:
    """The contender of one side with the most tokens per second."""
    mine = [row for row in rows.values() if row["name"].startswith(whose) and "failed" not in row]
    if not mine:
        sys.exit("\n".join(f"{row['name']}: {row['failed']}" for row in rows.values() if "failed" in row))
    return max(mine, key=lambda row: row["tokens_per_second"])


def compare(rows: dict[str, dict[str, Any]], config: str) -> dict[str, Any]:
    """What is stored of one configuration: the rows and best against best."""
    ours, theirs = best(rows, "hanse"), best(rows, "transformers")
    return {
        "config": sizes(config).to_hf(),
        "parameters": sizes(config).parameters(),
        "rows": list(rows.values()),
        "speed_ratio": round(ours["tokens_per_second"] / theirs["tokens_per_second"], 2),
        # Round by round, steps that ran one after the other: what a neighbour's load does to both cancels out.
        "paired_speed_ratio": round(
            statistics.median(b / a for a, b in zip(ours["wall_seconds"], theirs["wall_seconds"], strict=True)), 2
        ),
        "cpu_second_ratio": round(ours["tokens_per_cpu_second"] / theirs["tokens_per_cpu_second"], 2),
        "memory_ratio": round(ours["peak_memory_mib"] / theirs["peak_memory_mib"], 2),
        "eager_speed_ratio": round(
            rows["hanse, eager"]["tokens_per_second"]
            / max(row.get("tokens_per_second", 0) for name, row in rows.items() if name in _EAGER),
            2,
        ),
    }


def setting(length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Under which all of it was measured."""
    return conditions.conditions("torch", "transformers", threads=options.threads) | {
        "what": "forward, next-token loss, backward and fused AdamW step; wall seconds, median of interleaved steps",
        "fast_bf16": has_fast_bf16(),
        "dtype": "bfloat16 autocast" if has_fast_bf16() else "float32",
        "batch": [TOKENS // length, length],
        "text": "one document a row" if options.rows_alone else "documents packed into rows and kept apart",
        "seed": 0,
        "rounds": options.rounds,
    }


_EAGER = ("transformers, eager experts", "transformers, grouped_mm")


def show(config: str, result: dict[str, Any]) -> None:
    """Print the table of one configuration."""
    print(f"{config}: {result['parameters'] / 1e6:.1f}M parameters")
    print(
        f"{'':40}{'tokens/s':>10}{'spread':>14}{'per CPU s':>11}{'of matrix rate':>16}{'peak MiB':>10}{'compile s':>11}"
        f"{'loss':>9}"
    )
    for row in result["rows"]:
        if "failed" in row:
            print(f"{row['name']:40}  failed: {row['failed'][:60]}")
            continue
        spread = f"{row['tokens_per_second_slowest']:.0f}-{row['tokens_per_second_fastest']:.0f}"
        print(
            f"{row['name']:40}{row['tokens_per_second']:>10.0f}{spread:>14}{row['tokens_per_cpu_second']:>11.0f}"
            f"{row['share_of_matrix_rate']:>16.1%}{row['peak_memory_mib']:>10}{row['compile_seconds']:>11.1f}"
            f"{row['last_loss']:>9.4f}"
        )
    print(
        f"best against best: {result['speed_ratio']} times the speed (round by round {result['paired_speed_ratio']}, "
        f"per CPU second {result['cpu_second_ratio']}), {result['memory_ratio']} of the memory; "
        f"both eager: {result['eager_speed_ratio']} times\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    lengths = (512, 1024, 2048, 4096)
    parser.add_argument("--lengths", nargs="+", type=int, choices=lengths, default=[512, 2048], help="tokens of a row")
    parser.add_argument("--rows-alone", action="store_true", help="one document a row instead of packed documents")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--skip-compile", action="store_true")
    conditions.add_corpus(parser)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "train_cpu.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        whose, settings = next((w, s) for name, w, s in CONTENDERS if name == options.worker)
        work(whose, settings, options.folder, options.threads)
        return
    stored = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    for config, length in itertools.product(options.config, options.lengths):
        dense = config == "dense"  # experts make no difference there
        names = [
            name for name, _, settings in CONTENDERS
            if not (options.skip_compile and settings.get("compile")) and not (dense and "grouped_mm" in name)
        ]  # fmt: skip
        title = f"{config}, rows of {length}"
        stored[title] = setting(length, options) | compare(measure(names, config, length, options), config)
        show(title, stored[title])
        conditions.store(stored, options.output)


if __name__ == "__main__":
    main()
