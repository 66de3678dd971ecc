"""Floating-point operations of a whole run, by part: what it computed forward and backward, and what its optimizer did.

The count of one token is the model's own (`operations` of its sizes). Here stands how often each part of it happens in
a run: attention once for each pair of tokens that see each other, the output head only where a position counts for
the loss, the multi-token block only while its loss has a weight. What is computed a second time to save memory, the
filling of documents to equal lengths and the empty half of a causal block are left out: they are no operations that
the model asks for. Precision does not matter. Torch-free.

# B rows, T positions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.model.config import NATIVE, Config, open_config
from hanse.model.config.opening import FAMILY_KEY, FOREIGN
from hanse.model.config.operations import (
    ATTENTION,
    MTP_ATTENTION,
    MTP_BLOCK,
    MTP_UNEMBEDDING,
    PASSES,
    UNEMBEDDING,
)
from hanse.plan import sizes
from hanse.plan.duration import NEWTON_SCHULZ_STEPS

if TYPE_CHECKING:
    import numpy as np

#: Operations of an update for each number, counted from its formula: averages, their correction, root, quotient, decay.
#: For Muon beside its matrix products: momentum, Nesterov's step, the norm, decay and the move itself.
UPDATE = {"muon": 12, "adamw": 13, "ademamix": 18}


@dataclass(frozen=True)
class Work:
    """What went through a model in a run.

    Attributes:
        tokens: positions.
        counted_tokens: of these, the ones whose prediction entered the loss.
        pairs: (query, key) pairs inside documents, each token with itself included; see `attended_pairs`.
        mtp_tokens, mtp_counted_tokens: the same in steps in which the multi-token loss had a weight.
    """

    tokens: int
    counted_tokens: int
    pairs: int
    mtp_tokens: int = 0
    mtp_counted_tokens: int = 0

    @classmethod
    def whole_sequences(cls, tokens: int, sequence_length: int, *, with_mtp: bool = True) -> Work:
        """A run in which each sequence is one document and every position counts: what `flop_per_token` assumes."""
        mtp = tokens if with_mtp else 0
        return cls(tokens, tokens, tokens * (sequence_length + 1) // 2, mtp, mtp)


def training(config: Config, work: Work) -> dict[str, int]:
    """FLOP of forward and backward over a whole run, by part.

    Args:
        config: sizes of the model.
        work: what went through it.
    """
    per_token = config.operations(1)  # a sequence of one token has one pair, so attention here is that of a pair
    times = dict.fromkeys(per_token, work.tokens) | {
        ATTENTION: work.pairs,
        UNEMBEDDING: work.counted_tokens,
        MTP_BLOCK: work.mtp_tokens,
        MTP_ATTENTION: work.pairs * work.mtp_tokens // max(1, work.tokens),
        MTP_UNEMBEDDING: work.mtp_counted_tokens,
    }
    found = {part: PASSES * flop * times[part] for part, flop in per_token.items()}
    return {part: flop for part, flop in found.items() if flop}


def attended_pairs(documents_BT: np.ndarray) -> int:
    """Pairs of a token and one that it may see: in a document of n tokens, n (n + 1) / 2.

    Args:
        documents_BT: a document's number for each position, integers; equal numbers in a row are one document.
    """
    import numpy as np

    rows, length = documents_BT.shape
    keys_BT = documents_BT - documents_BT.min() if length else documents_BT
    width = int(keys_BT.max()) + 1 if keys_BT.size else 1
    lengths = np.bincount((keys_BT + width * np.arange(rows)[:, None]).ravel())
    return int((lengths * (lengths + 1) // 2).sum())


def updating(config: Config, optimizer: str, steps: int) -> dict[str, int]:
    """FLOP of all optimizer steps, by what moves the weights: no part of forward or backward.

    Muon's products are those of five Newton-Schulz steps over each matrix, in their plain form: gram, its square, and
    the product with the matrix, 4 m m n + 2 m m m for m rows and n columns (m <= n). For long float32 matrices Hanse
    takes the Gram form, which is cheaper.

    Args:
        optimizer: "muon", "adamw" or "ademamix", as a recipe has it.

    Raises:
        InputError: an optimizer that is not known here, or a model whose weights are not.
    """
    if optimizer not in UPDATE:
        raise InputError(f"optimizer {optimizer!r}: its operations are not counted; known: {', '.join(UPDATE)}.")
    found: dict[str, int] = {}
    for weight in sizes.weights(config):  # type: ignore[arg-type]  # every family's sizes are frozen, so hashable
        moved_by = weight.moved_by(optimizer)
        found[moved_by] = found.get(moved_by, 0) + UPDATE[moved_by] * weight.count * steps
        if moved_by == "muon":
            short, long = sorted(weight.shape[-2:])
            product = 4 * short * short * long + 2 * short**3
            matrices = weight.count // (short * long)
            name = "muon, orthogonalising"
            found[name] = found.get(name, 0) + matrices * NEWTON_SCHULZ_STEPS * product * steps
    return found


def inference(config: Config, prompt: int, answer: int) -> int:
    """FLOP of reading a prompt and writing an answer with a cache: one forward of each token, no multi-token block.

    The head is counted once for each written token. Lengths in tokens.
    """
    per_token = config.operations(1)
    kept = {part: flop for part, flop in per_token.items() if part not in (MTP_BLOCK, MTP_ATTENTION, MTP_UNEMBEDDING)}
    seen = prompt + max(0, answer - 1)  # the last token that is written is not read again
    times = dict.fromkeys(kept, seen) | {ATTENTION: seen * (seen + 1) // 2, UNEMBEDDING: answer}
    return sum(flop * times[part] for part, flop in kept.items())


def config_of(values: Mapping[str, Any], folder: Path) -> Config:
    """Sizes of a model from its `config.json`; for a family that transformers computes, also from its weights' shapes.

    Raises:
        InputError: sizes that cannot work, or weights that cannot be read.
    """
    family = str(values.get("model_type"))
    if family in NATIVE and values.get(FAMILY_KEY) != FOREIGN:
        return NATIVE[family].from_hf(values)
    return open_config(folder)
