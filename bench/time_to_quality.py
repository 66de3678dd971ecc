"""Quality per minute on a small machine: our preset, our dense fallback, and a Llama trained by transformers' Trainer.

All read the same shards of real text in the same order and are measured on the same held-out text, in bits per byte,
mean over the languages. The clock is wall time of training, compilation included, loading of libraries and measuring
left out. A contender is told its minutes; it times a few steps first (outside of the clock) and plans as many as fit,
so that each has a whole schedule of rates. What "half the time" means is measured, not read off a curve: our preset
trains anew with half and with a quarter of the minutes.

The Llama has the same depth, width, heads, vocabulary and about as many parameters as our dense model; its rate is
the best of a sweep at a fifth of the time.

    python bench/time_to_quality.py [--minutes 10] [--seeds 3] [--threads 2] [--corpus ../shared/corpus]
                                    [--output bench/results/time_to_quality.json]
    python bench/time_to_quality.py --draw docs/images/time-to-quality.svg    # a picture of the stored result
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import conditions
import learning

RATES = (0.002, 0.004, 0.008, 0.016)
SWEEP_SHARE = 0.2
CALIBRATION_STEPS = 8
EXPERTS = (
    "model.n_routed_experts=16", "model.num_experts_per_tok=4", "model.moe_intermediate_size=128",
    "model.first_k_dense_replace=1",
)  # fmt: skip
OURS: dict[str, tuple[str, ...]] = {
    "hanse, preset": (),
    "hanse, dense, AdamW": ("pretrain.optimizer=adamw", "pretrain.learning_rate=0.004"),
    "hanse, experts": EXPERTS,
    "hanse, multi-token prediction": ("model.num_nextn_predict_layers=1", "pretrain.mtp_weight=0.3"),
    "hanse, without latent attention": ("model.family=apertus",),
}
LLAMA = "Llama, transformers Trainer"


def run_ours(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one of ours for the given seconds."""
    shards, tokenizer, threads = Path(job["shards"]), Path(job["tokenizer"]), job["threads"]
    settings = [*OURS[job["name"]], f"seed={job['seed']}"]

    def trained(tokens: int, where: str):
        parsed = learning.recipe(Path(job["corpus"]), [*settings, f"pretrain.budget_tokens={tokens}"])
        (folder / where).mkdir()
        began = time.perf_counter()
        model, summary = learning.train(parsed, shards, job["digest"], folder / where, threads)
        return parsed, model, summary, time.perf_counter() - began

    batch = learning.recipe(Path(job["corpus"]), settings).pretrain.batch_tokens
    _, _, trial, _ = trained(CALIBRATION_STEPS * batch, "trial")
    tokens = max(batch * CALIBRATION_STEPS, int(trial.tokens_per_second * job["seconds"]) // batch * batch)
    parsed, model, summary, seconds = trained(tokens, "whole")
    quality = learning.bits_per_byte(model, shards, tokenizer, context=parsed.pretrain.sequence_length)
    return {
        "bits_per_byte": quality, "seconds": seconds, "tokens": summary.tokens,
        "parameters": model.config.parameters(), "active": model.config.active_parameters(),
    }  # fmt: skip


def run_llama(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train a Llama with transformers' Trainer for the given seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from hanse import plan
    from hanse.data.loader import Loader
    from hanse.data.mixture import Mixture
    from hanse.data.shards import Shards
    from hanse.model import hf

    torch.set_num_threads(job["threads"])
    shards = Path(job["shards"])
    sized = [f"seed={job['seed']}", "pretrain.budget_tokens=50000000"]
    parsed = learning.recipe(Path(job["corpus"]), sized)
    ours, train = plan.model_config(parsed), parsed.pretrain
    opened = Shards.open(shards)
    loader = Loader(opened, Mixture.of(opened, train), seed=parsed.seed)

    class Samples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return loader.mixture.samples

        def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
            ids = torch.from_numpy(loader.samples(number, 1)[0][:-1])
            return {"input_ids": ids, "labels": ids}

    def trained(steps: int) -> tuple[Any, float]:
        torch.manual_seed(job["seed"])
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=ours.vocab_size, hidden_size=ours.hidden_size, intermediate_size=ours.intermediate_size,
                num_hidden_layers=ours.num_hidden_layers, num_attention_heads=ours.num_attention_heads,
                max_position_embeddings=train.sequence_length, tie_word_embeddings=True,
                initializer_range=ours.initializer_range,
            )
        )  # fmt: skip
        settings = TrainingArguments(
            output_dir=str(folder / "trainer"), max_steps=steps, learning_rate=job["rate"],
            per_device_train_batch_size=train.batch_tokens // train.sequence_length, lr_scheduler_type="cosine",
            warmup_steps=0.05, weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, save_strategy="no",
            logging_strategy="no", report_to=[], use_cpu=True, optim="adamw_torch_fused", disable_tqdm=True,
        )  # fmt: skip
        trainer = InOrder(model=model, args=settings, train_dataset=Samples())
        began = time.perf_counter()
        trainer.train()
        return model, time.perf_counter() - began

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # the same text in the same order as ours

    _, short = trained(2)
    _, longer = trained(2 + CALIBRATION_STEPS)
    steps = max(CALIBRATION_STEPS, int(job["seconds"] / ((longer - short) / CALIBRATION_STEPS)))
    model, seconds = trained(steps)
    model.save_pretrained(folder / "llama")
    quality = learning.bits_per_byte(
        hf.load(folder / "llama"), shards, Path(job["tokenizer"]), context=train.sequence_length
    )
    return {
        "bits_per_byte": quality, "seconds": seconds, "tokens": steps * train.batch_tokens,
        "parameters": model.num_parameters(), "active": model.num_parameters(), "rate": job["rate"],
    }  # fmt: skip


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One training in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{job['name']}: failed with exit code {done.returncode}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{job['name']}, seed {job['seed']}, {job['seconds']:.0f} s: {result['bits_per_byte']:.4f} bits per byte after "
        f"{result['seconds']:.0f} s and {result['tokens']:,} tokens", file=sys.stderr,
    )  # fmt: skip
    return result


def jobs(minutes: float, seeds: int) -> list[tuple[str, str, int, float]]:
    """Key, contender, seed and seconds of each run: the claims with every seed before the details."""
    seconds = minutes * 60
    claims, details = [], []
    for seed in range(seeds):
        claims += [("hanse, preset", "hanse, preset", seed, seconds), (LLAMA, LLAMA, seed, seconds)]
        claims.append(("hanse, preset, half the time", "hanse, preset", seed, seconds / 2))
        details.append(("hanse, preset, a quarter of the time", "hanse, preset", seed, seconds / 4))
        details += [(name, name, seed, seconds) for name in OURS if name != "hanse, preset"]
    return claims + details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    learning.arguments(parser)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "time_to_quality.json")
    parser.add_argument("--draw", type=Path, metavar="SVG", help="only draw the stored result")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        options.draw.write_text(picture(json.loads(options.output.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    if options.job:
        job = json.loads(options.job)
        with tempfile.TemporaryDirectory() as folder:
            result = (run_llama if job["name"] == LLAMA else run_ours)(job, Path(folder))
        print(json.dumps(result))
        return
    shards, tokenizer, digest = learning.prepare(options.corpus, options.work, options.threads)
    common = {"shards": str(shards), "tokenizer": str(tokenizer), "digest": digest, "threads": options.threads}
    common["corpus"] = str(options.corpus)
    setting = {"minutes": options.minutes, "shards": digest}
    stored = json.loads(options.output.read_text()) if options.output.exists() else {}
    if stored.get("setting") != setting:
        stored = conditions.conditions("torch", "transformers", threads=options.threads)
        stored |= {"setting": setting, "sweep": {}, "runs": {}}

    def save() -> None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        conditions.store(stored, options.output)

    for rate in RATES:
        if str(rate) not in stored["sweep"]:
            seconds = options.minutes * 60 * SWEEP_SHARE
            stored["sweep"][str(rate)] = run({**common, "name": LLAMA, "seed": 0, "seconds": seconds, "rate": rate})
            save()
    best = min(stored["sweep"], key=lambda rate: stored["sweep"][rate]["bits_per_byte"])
    for key, name, seed, seconds in jobs(options.minutes, options.seeds):
        runs = stored["runs"].setdefault(key, {})
        if str(seed) not in runs:
            runs[str(seed)] = run({**common, "name": name, "seed": seed, "seconds": seconds, "rate": float(best)})
            save()
    show(stored)


def show(stored: dict[str, Any]) -> None:
    """Print the table."""
    machine = stored["machine"]
    print(f"{stored['setting']['minutes']:g} minutes, {machine['threads']} threads of {machine['cpu']}")
    print(f"{'':44}{'bits per byte':>20}{'seconds':>9}{'tokens':>12}{'parameters':>12}")
    for name, runs in stored["runs"].items():
        values = list(runs.values())
        quality = learning.spread([run["bits_per_byte"] for run in values])
        seconds = statistics.median(run["seconds"] for run in values)
        tokens = statistics.median(run["tokens"] for run in values)
        print(f"{name:44}{quality:>20}{seconds:>9.0f}{tokens:>12,.0f}{values[0]['parameters'] / 1e6:>11.2f}M")
    rates = ", ".join(f"{rate}: {run['bits_per_byte']:.3f}" for rate, run in stored["sweep"].items())
    print(f"rates of the Llama at a fifth of the time, bits per byte: {rates}")


def picture(stored: dict[str, Any]) -> str:
    """Every run of our preset and of the Llama as a dot: seconds to the right, bits per byte upwards. SVG."""
    width, height, left, top = 640, 340, 60, 20
    names = [name for name in stored["runs"] if name == LLAMA or name.startswith("hanse, preset")]
    runs = [
        (name == LLAMA, run["seconds"], run["bits_per_byte"]) for name in names for run in stored["runs"][name].values()
    ]
    longest = max(seconds for _, seconds, _ in runs) * 1.05
    low, high = min(bits for *_, bits in runs) - 0.05, max(bits for *_, bits in runs) + 0.05

    def place(seconds: float, bits: float) -> tuple[float, float]:
        right, bottom = width - left - 20, height - top - 50
        return left + seconds / longest * right, top + (high - bits) / (high - low) * bottom

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        "<title>Bits per byte on held-out text against seconds of training</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for minute in range(0, int(longest // 60) + 1, 2):
        x, bottom = place(minute * 60, low)
        lines.append(f'<path d="M{x:.1f} {top}V{bottom:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{minute} min</text>')
    for tenth in range(math.ceil(low * 10), math.floor(high * 10) + 1):
        x, y = place(longest, tenth / 10)
        lines.append(f'<path d="M{left} {y:.1f}H{x:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>')
    for is_llama, seconds, bits in runs:
        x, y = place(seconds, bits)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_COLOURS[is_llama]}" fill-opacity="0.8"/>')
    for number, (is_llama, words) in enumerate(_LEGEND):
        y = height - 120 + 20 * number
        lines.append(f'<circle cx="{left + 20}" cy="{y - 4}" r="5" fill="{_COLOURS[is_llama]}"/>')
        lines.append(f'<text x="{left + 32}" y="{y}">{words}</text>')
    x, y = place(longest / 2, low)
    lines.append(f'<text x="{x:.1f}" y="{y + 38:.1f}" text-anchor="middle">training, wall time with compilation</text>')
    lines.append(
        f'<text transform="translate(14 {height / 2:.0f}) rotate(-90)" text-anchor="middle">bits per byte</text>'
    )
    return "\n".join([*lines, "</svg>", ""])


_COLOURS = {False: "#1b5fa8", True: "#c2571a"}
_LEGEND = ((False, "Hanse, each dot a run of its own"), (True, "Llama, transformers' Trainer, best rate"))


if __name__ == "__main__":
    main()
