"""A small release of a model with real weights, laid out as the release stage does, and how to ask the gate of it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from licensed_store import SOURCES, ledger_of, make_store, text_of

from hanse.release import sign, verifier
from hanse.release.gate.audit import Finding
from hanse.release.ledger import Ledger
from hanse.store.stage import Artifact, Store, Work

CONTEXT = 96
LICENCE = "CC0-1.0"  # of the weights; the contracts of the toy's text say nothing here


class Published(NamedTuple):
    """A release, the store where it lies, and the ledger that it is made of."""

    store: Store
    release: Artifact
    ledger: Ledger


@functools.cache
def _model_files(place: Path) -> Path:
    """A model of the first family with random weights, and a tokenizer trained on the toy's text; made once."""
    import torch

    from hanse.data.tokenizer import save, train
    from hanse.model import hf
    from hanse.model.config import ModelConfig
    from hanse.model.transformer import Transformer
    from hanse.tune.template import CHAT_TEMPLATE

    config = ModelConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1,
        max_position_embeddings=CONTEXT, initializer_range=0.2,
    )  # fmt: skip
    model = Transformer(config).init_weights(torch.Generator().manual_seed(3)).eval()
    # Random weights would say any token, frames of tools among them: the last layer leaves those out.
    with torch.no_grad():
        model.head_VD[:15].zero_()
    hf.save(model, place)
    save(train([text_of(n) for n in range(40)], 300), place, chat_template=CHAT_TEMPLATE)
    return place


def write_real_model(place: Path, folder: Path) -> None:
    """Copy the files of the model that `place` holds, made there at the first call."""
    for path in _model_files(place).iterdir():
        shutil.copyfile(path, folder / path.name)


def real_store(root: Path) -> Store:
    """A store whose model has real weights."""
    place = root.parent / "weights"
    place.mkdir()
    return make_store(root, write=functools.partial(write_real_model, place))


def publish(store: Store, key: Path, **changes: object) -> Published:
    """The files that a release carries, signed."""
    ledger = ledger_of(store, **{"licence": LICENCE, **changes})
    signer = sign.load_or_create_key(key)

    def make(work: Work) -> None:
        lay_out(ledger, work.folder)
        (work.folder / verifier.PUBLIC_KEY).write_text(sign.public_pem(signer))
        work.seal(
            verifier.SIGNATURE,
            lambda folder, digests: (
                (folder / verifier.SIGNATURE).write_text(sign.bundle(digests, name="toy", key=signer)) and None
            ),
        )

    inputs = {"model": ledger.model, "evaluation": ledger.evaluation}
    built = store.build("release", "toy", "1", definition={"licence": ledger.licence}, inputs=inputs, make=make)
    return Published(store, built.artifact, ledger)


def lay_out(ledger: Ledger, folder: Path) -> None:
    """Model, scores, records and verifier, as they lie before the folder is sealed."""
    from hanse.release.folder import _copy_model, _copy_records, _copy_scores

    _copy_model(ledger.model, folder)
    _copy_records(ledger.ancestors, folder / verifier.PROVENANCE)
    _copy_scores(ledger.evaluation, folder / "evaluation" / "scores.json")
    shutil.copyfile(Path(verifier.__file__), folder / "verify.py")


def spoilt(place: Path, dataset: Callable[[Work], None] | None = None, **changes: Any) -> Ledger:
    """The ledger of a store whose last source says something else; weights do not matter."""
    sources = [*SOURCES[:2], {**SOURCES[2], **changes}]
    return ledger_of(make_store(place / "spoilt", sources=sources, dataset=dataset), licence=LICENCE)


def told(findings: Iterable[Finding], outcome: str) -> list[str]:
    """What the gate says of one outcome."""
    return [f"{each.check}: {each.what} ({each.where})" for each in findings if each.outcome == outcome]


def failures(findings: Iterable[Finding]) -> list[str]:
    return told(findings, "failed")
