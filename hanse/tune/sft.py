"""Supervised fine-tuning: conversations, packed several to a row, with the loss on the assistant's part only.

A row holds whole conversations side by side that cannot see each other. Which ones, and in what order, follows from
seed and epoch by a keyed permutation, so that the batch of any step can be made without those before it.

# B rows, T positions, C conversations
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hanse.data import conversations as talk
from hanse.data.loader import IGNORED, Batch
from hanse.data.permutation import mix, permute
from hanse.data.tokenizer import FILES, Tokenizer
from hanse.errors import InputError
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import whole
from hanse.plan.dealing import micro_batches
from hanse.recipe import HOW
from hanse.runtime import Runtime
from hanse.store.digest import sha256_file
from hanse.train.loop import train
from hanse.train.metrics import Summary
from hanse.train.rates import with_rates
from hanse.train.room import enough_memory
from hanse.tune.template import Rendered, render_all

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.recipe import Tune
    from hanse.store.stage import Work

OPEN_ROWS = 16  # rows that are filled at a time: leaves about 1 % of the positions empty, keeps the order near random


@dataclass(frozen=True)
class Packing:
    """The shape of a tuning run.

    Attributes:
        sequence_length: T, positions a row.
        batch_rows: rows of an optimizer step.
        micro_batches: the rows of each forward pass of this rank, within a step.
        epochs: how often each conversation is seen; parts of an epoch count.
        seed: decides the order.
    """

    sequence_length: int
    batch_rows: int
    micro_batches: tuple[range, ...]
    epochs: float
    seed: int


class PackedConversations:
    """Rendered conversations as a function from the step to its micro-batches.

    Args:
        rendered: conversations as tokens; those longer than a row or without an assistant's token are left out.
        packing: the shape of the run.

    Attributes:
        steps: optimizer steps of the whole run.
        conversations: how many are used.
        too_long: how many were left out because they do not fit into a row.
        unanswered: how many were left out because the assistant says nothing.
        digest: SHA-256 over tokens and masks, in order.

    Raises:
        InputError: nothing is left to learn from.
    """

    def __init__(self, rendered: Iterable[Rendered], packing: Packing) -> None:
        self.packing = packing
        self.too_long = self.unanswered = 0
        kept = [conversation for conversation in rendered if self._is_usable(conversation)]
        if not kept:
            raise InputError(
                f"tuning: none of the conversations can be used ({self.too_long} do not fit into sequence_length = "
                f"{packing.sequence_length}, {self.unanswered} have no answer); raise sequence_length or check them."
            )
        self.conversations = len(kept)
        self._ids_C = [np.asarray(conversation.ids, dtype=np.int64) for conversation in kept]
        self._is_assistant_C = [np.asarray(conversation.is_assistant, dtype=bool) for conversation in kept]
        self.digest = self._hash()
        self._rows = self._plan()
        self.steps = max(1, len(self._rows) // packing.batch_rows)

    def batch_at(self, step: int) -> list[Batch]:
        """The micro-batches of one optimizer step.

        Returns:
            Batches of (rows, T); the last position of a conversation and everything outside the assistant's
            part counts for nothing, padding is a document of its own.
        """
        first = step * self.packing.batch_rows
        rows = self._rows[first : first + self.packing.batch_rows]
        if self.steps == 1:  # fewer conversations than one batch: what is left of it stays empty
            rows = [*rows, *([[]] * (self.packing.batch_rows - len(rows)))]
        return [self._batch(rows[part.start : part.stop]) for part in self.packing.micro_batches]

    def shown_at(self, step: int) -> list[int]:
        """The conversations in one optimizer step, as their places among those that are used."""
        first = step * self.packing.batch_rows
        return [place for row in self._rows[first : first + self.packing.batch_rows] for place in row]

    def _is_usable(self, conversation: Rendered) -> bool:
        if len(conversation.ids) - 1 > self.packing.sequence_length:
            self.too_long += 1
            return False
        if not any(conversation.is_assistant[1:]):
            self.unanswered += 1
            return False
        return True

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for ids, is_assistant in zip(self._ids_C, self._is_assistant_C, strict=True):
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes() + is_assistant.tobytes())
        return digest.hexdigest()

    def _plan(self) -> list[list[int]]:
        """The rows of the whole run, each as the places of its conversations."""
        lengths = [len(ids) - 1 for ids in self._ids_C]
        rows: list[list[int]] = []
        for epoch in range(math.ceil(self.packing.epochs)):
            keys_C = mix(np.full(len(lengths), epoch, np.uint64), key=self.packing.seed)
            order = permute(np.arange(len(lengths)), len(lengths), keys_N=keys_C)
            share = min(1.0, self.packing.epochs - epoch)
            taken = order[: math.ceil(share * len(order))].tolist()
            rows.extend(pack(taken, lengths, self.packing.sequence_length))
        return rows

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        shape = (len(rows), self.packing.sequence_length)
        tokens_BT = np.zeros(shape, dtype=np.int64)
        targets_BT = np.full(shape, IGNORED, dtype=np.int64)
        documents_BT = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            position = 0
            for document, place in enumerate(row):
                ids, is_assistant = self._ids_C[place], self._is_assistant_C[place]
                end = position + len(ids) - 1
                tokens_BT[number, position:end] = ids[:-1]
                targets_BT[number, position:end] = np.where(is_assistant[1:], ids[1:], IGNORED)
                documents_BT[number, position:end] = document
                position = end
            documents_BT[number, position:] = len(row)
        return Batch(torch.from_numpy(tokens_BT), torch.from_numpy(targets_BT), torch.from_numpy(documents_BT))


def finetune(
    work: Work,
    settings: Tune,
    *,
    model: Path,
    conversations: Path,
    seed: int,
    runtime: Runtime,
    ranks: Ranks,
    console: Console,
) -> None:
    """Tune the model of one artifact on the training conversations of another; write the new model to `work.folder`.

    Called on the first rank.

    Args:
        work: the stage's folders and notes.
        settings: a recipe's [[tune]] section.
        model: a model artifact's folder, tokenizer files included.
        conversations: a conversations artifact's folder, checked when it was made; `train.jsonl` is read.
        seed: of the order of conversations.
        runtime: where to run.
        ranks: who trains; the others wait in `hanse.pipeline.follow`.
        console: where progress goes.

    Raises:
        InputError, Interrupted: as `train`; and if no conversation can be used.
    """
    where = {"model": str(model), "conversations": str(conversations)}
    where |= {"scratch": str(work.scratch), "run": str(work.run)}
    ranks.broadcast(("tune", {"settings": settings, "seed": seed, **where}))
    network, summary, packed = learn(settings, seed=seed, **where, runtime=runtime, ranks=ranks, console=console)
    assert network is not None
    hf.save(network, work.folder, token_ids=Tokenizer.load(model).special_ids())
    for name in FILES:
        shutil.copyfile(model / name, work.folder / name)
    work.note(
        **asdict(summary),
        conversations=packed.conversations,
        conversations_too_long=packed.too_long,
        conversations_unanswered=packed.unanswered,
        runtime=runtime.describe(),
    )


def learn(
    settings: Tune,
    *,
    model: str,
    conversations: str,
    seed: int,
    scratch: str,
    run: str,
    runtime: Runtime,
    ranks: Ranks,
    console: Console,
) -> tuple[Transformer | None, Summary, PackedConversations]:
    """The part of tuning that every rank takes part in.

    Returns:
        The whole model on the first rank, None on the others; the run in figures; what it was shown.
    """
    folder = Path(model)
    rows = [row for row in talk.read(Path(conversations) / "train.jsonl") if row["source"] == settings.source]
    batch_rows = settings.batch_tokens // settings.sequence_length
    micro_rows = (settings.micro_batch_tokens or settings.batch_tokens) // settings.sequence_length
    packed = PackedConversations(
        render_all(Tokenizer.load(folder).hf, [row["messages"] for row in rows]),
        Packing(
            sequence_length=settings.sequence_length,
            batch_rows=batch_rows,
            micro_batches=tuple(micro_batches(batch_rows, micro_rows, rank=ranks.rank, ranks=ranks.size)),
            epochs=settings.epochs,
            seed=seed,
        ),
    )
    network = hf.load(folder)
    settings = with_rates(settings, network.config.hidden_size, is_tuning=True)
    identity = {
        "settings": settings.model_dump(mode="json", exclude=set(HOW)),
        "seed": seed,
        "data": packed.digest,
        "model": sha256_file(folder / hf.WEIGHTS),
    }
    with enough_memory(network.config, settings, runtime):
        summary = train(
            network,
            packed.batch_at,
            settings,  # type: ignore[arg-type]  # both rates are filled in
            runtime,
            ranks=ranks,
            steps=packed.steps,
            scratch=Path(scratch),
            run=Path(run),
            identity=identity,
            label="tune",
            milestones=settings.milestones,
            console=console.rich,
        )
    return whole(network, ranks), summary, packed


def pack(places: Iterable[int], lengths: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Put conversations into rows: each into the first open row with room; if none has, the fullest row is done.

    Args:
        places: which conversations, in which order.
        lengths: of every conversation, in positions, at most `capacity`.
        capacity: positions a row.

    Yields:
        Rows as lists of places; every place once.
    """
    rows: list[tuple[list[int], int]] = []
    for place in places:
        length = lengths[place]
        for number, (row, used) in enumerate(rows):
            if used + length <= capacity:
                row.append(place)
                rows[number] = (row, used + length)
                break
        else:
            if len(rows) == OPEN_ROWS:
                fullest = max(range(OPEN_ROWS), key=lambda number: rows[number][1])
                yield rows.pop(fullest)[0]
            rows.append(([place], length))
    for row, _ in rows:
        yield row
