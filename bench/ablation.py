"""What each part of the frugal design is worth at a scale that a CPU trains in minutes: one line a part.

Every variant changes one thing of the base: recipes/europe.toml at a small size, over real text. Equal tokens, several
seeds; quality is bits per byte on held-out text, mean over the languages, and CPU seconds stand beside it, since a part
that costs more time than it saves does not pay. Runs that are in the results file already are not made again.

    python bench/ablation.py [--size 1M] [--tokens 600000] [--seeds 3] [--only NAME ...] [--threads 2]
                             [--corpus ../shared/corpus] [--output bench/results/ablation.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import conditions
import learning

MOE = (
    "model.n_routed_experts=16", "model.num_experts_per_tok=4", "model.moe_intermediate_size={fifth}",
    "model.first_k_dense_replace=1",
)  # fmt: skip
# Name -> changes. Each is compared with the base, which is dense below 10M active parameters.
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "experts (16, 4 a token)": MOE,
    "experts, no balancing": (*MOE, "pretrain.router_bias_rate=0.0"),
    "multi-token prediction": ("model.num_nextn_predict_layers=1", "pretrain.mtp_weight=0.3"),
    "multi-token prediction, fading": (
        "model.num_nextn_predict_layers=1", "pretrain.mtp_weight=0.3", "pretrain.mtp_final_weight=0.1",
    ),
    "AdamW instead of Muon": ("pretrain.optimizer=adamw", "pretrain.learning_rate=0.004"),
    "AdEMAMix instead of Muon": ("pretrain.optimizer=ademamix", "pretrain.learning_rate=0.004"),
    "rates halved": ("pretrain.learning_rate={half}", "pretrain.adam_learning_rate={adam_half}"),
    "rates doubled": ("pretrain.learning_rate={double}", "pretrain.adam_learning_rate={adam_double}"),
    "half the batch": ("pretrain.batch_tokens=2048",),
    "twice the batch": ("pretrain.batch_tokens=8192",),
    "batch ramp over a third": ("pretrain.batch_ramp_share=0.33",),
    "decay over a fifth": ("pretrain.decay_share=0.2",),
    "decay over four fifths": ("pretrain.decay_share=0.8",),
    "z-loss": ("pretrain.z_loss=0.0001",),
    "Goldfish loss, k = 4": ("pretrain.goldfish=4",),
    "untied embeddings": ("model.tie_word_embeddings=false",),
    "Apertus": ("model.family=apertus",),
}  # fmt: skip


def changes(name: str, options: argparse.Namespace) -> list[str]:
    """A variant as `--set` arguments; an expert is a fifth as wide as a dense layer, so active sizes agree."""
    from hanse import plan
    from hanse.train import rates

    base = [f"model.size={options.size}", f"pretrain.budget_tokens={options.tokens}", "pretrain.compile=false"]
    parsed = learning.recipe(options.corpus, base)
    config = plan.model_config(parsed)
    rule = rates.rule(parsed.pretrain, config.hidden_size)
    values = {
        "fifth": max(32, round(config.intermediate_size / 5 / 32) * 32),  # four routed and one shared expert
        "half": rule.learning_rate / 2, "adam_half": rule.adam_learning_rate / 2,
        "double": rule.learning_rate * 2, "adam_double": rule.adam_learning_rate * 2,
    }  # fmt: skip
    return [*base, *(change.format(**values) for change in VARIANTS[name])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    learning.arguments(parser)
    parser.add_argument("--size", default="1M")
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "ablation.json")
    options = parser.parse_args()
    shards, tokenizer, digest = learning.prepare(options.corpus, options.work, options.threads)
    stored = json.loads(options.output.read_text()) if options.output.exists() else {}
    setting = {"size": options.size, "tokens": options.tokens, "shards": digest}
    if stored.get("setting") != setting:
        stored = conditions.conditions("torch", threads=options.threads) | {"setting": setting, "runs": {}}
    for seed in range(options.seeds):  # seed by seed, so that a slow hour hits all variants alike
        for name in options.only:
            runs = stored["runs"].setdefault(name, {})
            if str(seed) in runs:
                continue
            parsed = learning.recipe(options.corpus, [*changes(name, options), f"seed={seed}"])
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                model, summary = learning.train(parsed, shards, digest, Path(folder), options.threads)
                spent = time.process_time() - began
            quality = learning.bits_per_byte(model, shards, tokenizer, context=parsed.pretrain.sequence_length)
            runs[str(seed)] = {
                "bits_per_byte": quality, "cpu_seconds": spent, "tokens": summary.tokens,
                "parameters": model.config.parameters(), "active": model.config.active_parameters(),
            }  # fmt: skip
            print(f"{name}, seed {seed}: {quality:.4f} bits per byte, {spent:.0f} CPU s", file=sys.stderr)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            conditions.store(stored, options.output)
    show(stored)


def show(stored: dict) -> None:
    """Print the table: each variant against the base, seed by seed."""
    base = stored["runs"]["base"]
    print(f"{stored['setting']['size']}, {stored['setting']['tokens']:,} tokens, seeds {', '.join(base)}")
    print(f"{'':34}{'bits per byte':>20}{'against base':>22}{'CPU s':>10}{'parameters':>13}")
    for name, runs in stored["runs"].items():
        seeds = sorted(set(runs) & set(base))
        if not seeds:
            continue
        quality = learning.spread([runs[seed]["bits_per_byte"] for seed in seeds])
        against = learning.spread([runs[seed]["bits_per_byte"] - base[seed]["bits_per_byte"] for seed in seeds])
        timed = [seed for seed in seeds if "cpu_seconds" in runs[seed] and "cpu_seconds" in base[seed]]
        ratios = [runs[seed]["cpu_seconds"] / base[seed]["cpu_seconds"] for seed in timed]
        seconds = f"{statistics.median(ratios):.2f}x" if ratios else "-"
        parameters = runs[seeds[0]]["parameters"] / 1e6
        print(f"{name:34}{quality:>20}{against:>22}{seconds:>10}{parameters:>12.2f}M")


if __name__ == "__main__":
    main()
