"""Ledgers for the compute meter: real stores whose records say what a test wants them to say."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.model.config import ModelConfig
from hanse.plan.operations import Work, training
from hanse.release.ledger import Ledger
from hanse.store.stage import Artifact, Store
from hanse.store.stage import Work as Folder

CONFIG = ModelConfig(
    vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=4,
    kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4, max_position_embeddings=64,
)  # fmt: skip
LENGTH = 16
RUNTIME = {"device": "cpu", "device_name": "AMD EPYC 7763 64-Core Processor", "compute_dtype": "float32", "ranks": 1,
           "threads": 64, "recompute": False}  # fmt: skip
PRETRAIN = {"pretrain": {"sequence_length": LENGTH, "optimizer": "muon", "mtp_weight": 0.0}, "model": {"size": "1M"}}
TUNE = {"tune": {"sequence_length": LENGTH, "optimizer": "muon", "source": "talk"}}


def facts_of_run(tokens: int = 16_000, **changes: Any) -> dict[str, Any]:
    """What the loop notes of a run over whole sequences; a change to None leaves a fact out."""
    work = Work.whole_sequences(tokens, LENGTH, with_mtp=False)
    parts = training(CONFIG, work)
    facts = {
        "steps": 10, "tokens": tokens, "counted_tokens": tokens, "attended_pairs": work.pairs, "mtp_tokens": 0,
        "mtp_counted_tokens": 0, "flop": sum(parts.values()), "operations": parts, "seconds": 3600.0,
        "energy_wh": None, "energy_method": "not readable: hosts without RAPL", "runtime": RUNTIME,
    }  # fmt: skip
    return {name: value for name, value in (facts | changes).items() if value is not None}


class Family:
    """A store in which models are made from models, and ledgers of what is in it."""

    def __init__(self, place: Path) -> None:
        self.store = Store.open(place)

    def make(self, ref: str, *, definition: Mapping[str, Any] | None = None, **given: Any) -> Artifact:
        """An artifact; `inputs` by role, everything else is noted."""
        kind, name = ref.split("/")
        inputs = given.pop("inputs", {})

        def fill(folder: Folder) -> None:
            (folder.folder / "config.json").write_text(json.dumps(CONFIG.to_hf() | {"of": ref}))
            folder.note(**given)

        return self.store.build(kind, name, "1", definition=definition or {}, inputs=inputs, make=fill).artifact

    def pretrained(self, name: str = "base", *, definition: Mapping[str, Any] = PRETRAIN, **changes: Any) -> Artifact:
        return self.make(f"model/{name}", definition=definition, **facts_of_run(**changes))

    def tuned(self, name: str, parent: Artifact, **changes: Any) -> Artifact:
        return self.make(f"model/{name}", definition=TUNE, inputs={"model": parent}, **facts_of_run(**changes))

    def merged(self, name: str, *parents: Artifact) -> Artifact:
        inputs = {f"model{number}": parent for number, parent in enumerate(parents)}
        return self.make(f"model/{name}", definition={"merge": {"by": "mean"}}, inputs=inputs)

    def ledger(self, model: Artifact, **changes: Any) -> Ledger:
        """Of a release of `model`, with everything in the store that it was made from."""
        evaluation = self.make(f"evaluation/{model.name}", inputs={"model": model})
        refs = {evaluation.ref, *self.store.ancestors(evaluation.ref)}
        return Ledger(**{
            "name": "toy", "version": "1", "title": "Toy", "description": "", "contact": "", "licence": "Apache-2.0",
            "languages": ("da",), "model": model, "evaluation": evaluation,
            "ancestors": tuple(self.store.find(ref) for ref in sorted(refs)), "config": CONFIG.to_hf(),
            "parameters": CONFIG.parameters(), "active_parameters": CONFIG.parameters(), "scores": [], "credits": [],
            "is_chat": True, "key_fingerprint": "", "lineage": "",
        } | changes)  # fmt: skip


def edited(ledger: Ledger, ref: str, **facts: Any) -> Ledger:
    """As if somebody had changed facts of one record by hand, past all that the store checks; `startedOn` too."""

    def change(artifact: Artifact) -> Artifact:
        if artifact.ref != ref:
            return artifact
        record = copy.deepcopy(artifact.record)
        metadata = record["predicate"]["runDetails"]["metadata"]
        if "startedOn" in facts:
            metadata["startedOn"] = facts["startedOn"]
        metadata["hanse_facts"] |= {name: value for name, value in facts.items() if name != "startedOn"}
        return replace(artifact, record=record)

    return replace(
        ledger, model=change(ledger.model), ancestors=tuple(change(artifact) for artifact in ledger.ancestors)
    )
