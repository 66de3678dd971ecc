"""The engine: many requests at once on one model, each as if it were alone.

Every step is one forward for all who are due: growing answers with one token each (two, where the multi-token block
proposed one), and pieces of prompts that still have to be read. The past of all lies in one pool of blocks; a text that
begins like an earlier one takes over its blocks; when no block is left, the youngest request gives its own back and is
computed again later.

Everything is computed in float32, whatever the training used: greedy text then equals that of transformers on the
released folder, and a near tie does not fall differently from machine to machine.

# N new tokens of a step, D hidden, V vocabulary
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.cache import Pool, View
from hanse.model.foreign import ForeignModel
from hanse.model.product import FEW_ROWS
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.grammar import compile_schema
from hanse.serve.request import Output, Request, Sampling, Stats, room_behind
from hanse.serve.routes import RouteRecorder
from hanse.serve.sampler import Sampler, choose, logprobs
from hanse.serve.schedule import BLOCK, Due, Schedule
from hanse.serve.sequence import Sequence
from hanse.tune.template import END_OF_TEXT, END_OF_TURN

if TYPE_CHECKING:
    from hanse.serve.compiled import CompiledStep

#: Tokens of one step, of which prompts get what growing answers leave: a long prompt delays the others by no more than
#: these take. Fewer: growing answers wait less. More: a prompt is read in fewer steps with larger products, so that its
#: answer begins sooner. Chosen, not measured.
CHUNK = 512
#: Memory of the pool unless told otherwise, in bytes.
POOL_BYTES = 1 << 30
# Rows whose logits are held at a time.
_LOGIT_ROWS = 256


class Engine:
    """A model that answers many at a time.

    Attributes:
        context: the most tokens of a prompt and its answer.
        end_ids: tokens that end an answer.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        runtime: Runtime,
        *,
        context: int | None = None,
        cache_tokens: int | None = None,
        chunk: int = CHUNK,
        speculate: bool = True,
        compiles: bool = False,
    ) -> None:
        """Lay out a model for serving.

        Args:
            context: fewer tokens than the model can see.
            cache_tokens: room for the past of all requests; by default what fits POOL_BYTES, up to 64 times the
                context, and at least one context.
            chunk: tokens of prompts that a step reads.
            speculate: let the multi-token block, if there is one, propose tokens; answers stay the same.
            compiles: compile the step in which each text gets one token. Takes a minute or two, and a C++ compiler.

        Raises:
            InputError: the step cannot be compiled here.
        """
        self.model = model.to(device=runtime.device, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.device = runtime.device
        self.context = min(context or model.config.max_position_embeddings, model.config.max_position_embeddings)
        self.end_ids = frozenset(_control_id(tokenizer, token) for token in (END_OF_TURN, END_OF_TEXT))
        self.is_drafting = speculate and model.mtp is not None
        is_foreign = isinstance(model, ForeignModel)
        with torch.inference_mode():
            probe = self.model.new_pool(1, block=1, is_drafting=self.is_drafting)
            fitting = min(POOL_BYTES // probe.bytes_per_token, 64 * self.context)
            needed = -(-(self.context + 1) // BLOCK)  # one text in full, and the place after it for a proposal
            blocks = max(needed, (cache_tokens or fitting) // BLOCK)
            self.pool = self.model.new_pool(blocks + 1, block=BLOCK, is_drafting=self.is_drafting)
        # What transformers keeps of a text can be neither shared nor grown in pieces with others.
        self._schedule = Schedule(
            blocks, chunk=1 << 31 if is_foreign else max(1, chunk), is_drafting=self.is_drafting,
            shares=not is_foreign, on_release=self.pool.forget,
        )  # fmt: skip
        self._recorder = RouteRecorder(self.model)
        self._counts = Stats()
        self._compiled = _compiled(self.model, self.pool) if compiles else None

    # ----------------------------------------------------------------------- requests

    def submit(self, request: Request, sink: Callable[[Output], None]) -> Sequence:
        """Take a request; `step` computes it and hands its pieces to `sink`, the last one with its `finish`.

        Raises:
            InputError: an empty prompt, one that fills the context, an unknown token, or sampling out of range.
        """
        sampling = request.sampling.check()
        size = self.model.config.vocab_size
        room = min(sampling.max_tokens, room_behind(request.prompt, self.context))
        if wrong := [token for token in request.prompt if not 0 <= token < size]:
            raise InputError(f"The prompt holds token {wrong[0]}, but the model knows 0 to {size - 1}.")
        grammar = None
        if sampling.schema is not None:
            grammar = compile_schema(sampling.schema, self.tokenizer, size).start()
        sampler = Sampler(sampling, request.prompt, vocab_size=size, grammar=grammar)
        sequence = Sequence.of(request, sampler, sink, tokenizer=self.tokenizer, room=room, end_ids=self.end_ids)
        self._schedule.waiting.append(sequence)
        self._count(prompt_tokens=len(request.prompt))
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a request as it is, if it is not over."""
        if sequence.finish is None:
            sequence.end("cancelled")
            self._schedule.leave(sequence)

    def abandon(self) -> None:
        """Forget all requests, without a word to them: a step failed."""
        for sequence in [*self._schedule.running, *self._schedule.waiting]:
            sequence.computed = 0  # nobody knows what its blocks hold
            self._schedule.leave(sequence)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to compute."""
        return not self._schedule.running and not self._schedule.waiting

    def stats(self) -> Stats:
        """Figures now."""
        schedule = self._schedule
        return replace(
            self._counts,
            running=len(schedule.running),
            waiting=len(schedule.waiting),
            cache_tokens=schedule.used,
            cache_capacity=schedule.capacity,
            cached_tokens=schedule.cached_tokens,
            preemptions=schedule.preemptions,
        )

    def text(self, ids: Iterable[int]) -> str:
        """Plain text of token ids, without control tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def outputs(self, request: Request) -> Iterator[Output]:
        """The pieces of one answer, computed as they are asked for; leaving early cancels it."""
        pieces: deque[Output] = deque()
        sequence = self.submit(request, pieces.append)
        try:
            while sequence.finish is None or pieces:
                if not pieces:
                    self.step()
                while pieces:
                    yield pieces.popleft()
        finally:
            self.cancel(sequence)

    def tokens(self, ids: Ids[int], **sampling: object) -> Iterator[int]:
        """Token ids that follow `ids`, one by one, up to an end token (not given out) or the end of the context.

        Args:
            sampling: fields of `request.Sampling`.
        """
        for output in self.outputs(Request(tuple(ids), Sampling(**sampling))):  # type: ignore[arg-type]
            yield from output.tokens

    def stream(self, ids: Ids[int], **sampling: object) -> Iterator[str]:
        """Text that follows `ids`, in pieces of whole characters, up to an end token or a stop string."""
        for output in self.outputs(Request(tuple(ids), Sampling(**sampling))):  # type: ignore[arg-type]
            if output.text:
                yield output.text

    def complete(self, prompts: Ids[Ids[int]], *, max_tokens: int | Ids[int]) -> list[list[int]]:
        """The greedy continuation of many prompts, in their order, each without its end token.

        Args:
            prompts: token ids; none empty, all shorter than the context.
            max_tokens: the most tokens to generate, for all or for each prompt.
        """
        limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
        if len(limits) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(limits)} limits")
        completions: list[list[int]] = [[] for _ in prompts]
        for ids in prompts:
            room_behind(ids, self.context)
        # Equal lengths together: they are read in one product.
        for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
            if limits[index] > 0:
                into = completions[index]
                request = Request(tuple(prompts[index]), Sampling(max_tokens=limits[index]))
                self.submit(request, lambda output, into=into: into.extend(output.tokens))  # type: ignore[misc]
        while not self.is_idle:
            self.step()
        return completions

    # ----------------------------------------------------------------------- one step

    @torch.inference_mode()
    def step(self) -> None:
        """One forward for all who are due; nothing if nobody is."""
        now = time.monotonic()
        for sequence in [*self._schedule.running, *self._schedule.waiting]:
            if sequence.request.deadline is not None and now >= sequence.request.deadline:
                sequence.end("deadline")
                self._schedule.leave(sequence)
        if due := self._schedule.next():
            hidden_ND = self._forward(due)
            self._draw(due, hidden_ND)
            if self._schedule.may_draft:
                self._propose(due, hidden_ND)
            for part in due:
                self._schedule.keep(part.sequence)

    def _forward(self, due: list[Due]) -> Tensor:
        """Hidden states (N, D) of a step's new tokens."""
        groups: dict[tuple[int, bool], list[Due]] = {}
        for part in due:
            groups.setdefault((part.count, part.start == 0), []).append(part)
        tokens: list[int] = []
        for part in (part for members in groups.values() for part in members):
            sequence = part.sequence
            part.begin = len(tokens)
            tokens += sequence.tokens[part.start : part.start + part.count]
            if part.is_drafted and sequence.draft is not None:
                tokens.append(sequence.draft)
        parts = [
            (count, [(part.start, part.sequence.blocks, part.sequence.shared) for part in members])
            for (count, _), members in groups.items()
        ]
        records_routes = any(part.sequence.request.records_routes for part in due)
        is_one_each = list(groups) == [(1, False)] and len(tokens) <= FEW_ROWS
        if self._compiled is not None and is_one_each and not records_routes:
            hidden_ND = self._compiled(tokens, parts[0][1])
        else:
            with self._recorder.listening(records_routes):
                hidden_ND = self.model.extend(torch.tensor(tokens, device=self.device), View.of(self.pool, parts))
        for part in due:
            part.sequence.computed += part.count - part.is_drafted
            if part.sequence.request.prompt_logprobs and not part.sequence.said:
                self._note_prompt(part, hidden_ND)
            if part.sequence.request.records_routes:
                part.sequence.note_routes(part.start, self._recorder.rows(part.begin, part.count - part.is_drafted))
        return hidden_ND

    def _note_prompt(self, part: Due, hidden_ND: Tensor) -> None:
        """Logprobs of the prompt's tokens that follow those of this part."""
        sequence = part.sequence
        following = sequence.tokens[part.start + 1 : part.start + part.count + 1]
        noted = max(0, len(sequence.prompt_logprobs) - part.start)  # before its blocks were given back
        for first in range(noted, len(following), _LOGIT_ROWS):
            some = following[first : first + _LOGIT_ROWS]
            rows = hidden_ND[part.begin + first : part.begin + first + len(some)]
            top = sequence.request.sampling.logprobs or 0
            sequence.prompt_logprobs += logprobs(self.model.logits(rows), some, top)

    def _draw(self, due: list[Due], hidden_ND: Tensor) -> None:
        """Draw the next token of every answer that is due one, and a second where the proposal was right.

        What plain decoding would draw is drawn; a proposal is right if it is the same token. So the answer, drawn or
        greedy, is that of plain decoding.
        """
        drawing = [part for part in due if part.sequence.left == 0]
        drafted = [part for part in drawing if part.is_drafted]
        if not drawing:
            return
        rows = [part.begin + part.count - 1 - part.is_drafted for part in drawing]
        rows += [part.begin + part.count - 1 for part in drafted]
        logits_BV = self.model.logits(hidden_ND[torch.tensor(rows, device=self.device)])
        self._take([part.sequence for part in drawing], logits_BV[: len(drawing)])
        right = []
        for row, part in enumerate(drafted, len(drawing)):
            sequence = part.sequence
            is_right = sequence.finish is None and sequence.tokens[-1] == sequence.draft
            sequence.draft = None
            if is_right:
                right.append((row, sequence))
                sequence.computed += 1
                if sequence.request.records_routes:
                    sequence.note_routes(part.start + 1, self._recorder.rows(part.begin + 1, 1))
        self._count(drafted=len(drafted), accepted=len(right))
        if right:
            chosen = torch.tensor([row for row, _ in right], device=self.device)
            self._take([sequence for _, sequence in right], logits_BV[chosen])

    def _take(self, sequences: list[Sequence], logits_BV: Tensor) -> None:
        """Draw one token for each, and tell."""
        tokens = choose(logits_BV, [sequence.sampler for sequence in sequences], end_ids=self.end_ids)
        self._count(generated_tokens=len(tokens))
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            top = sequence.request.sampling.logprobs
            noted = logprobs(logits_BV[row : row + 1], [token], top) if top is not None else ()
            sequence.add(token, *noted)
            if sequence.finish is not None:
                self._schedule.leave(sequence)

    def _propose(self, due: list[Due], hidden_ND: Tensor) -> None:
        """Run the multi-token block over what was computed and drawn; its last word is the next proposal.

        It reads a token together with the hidden state before it. What it keeps of both lies in that token's place, so
        that blocks which hold the same text hold the same here too.
        """
        groups: dict[int, list[Due]] = {}
        for part in due:
            if part.sequence.finish is None:
                groups.setdefault(part.sequence.computed - part.start, []).append(part)
        if not groups:
            return
        rows: list[int] = []
        tokens: list[int] = []
        last: list[tuple[int, Sequence]] = []
        for count, members in groups.items():
            for part in members:
                rows += range(part.begin, part.begin + count)
                tokens += part.sequence.tokens[part.start + 1 : part.start + 1 + count]
                if part.sequence.left == 1:
                    last.append((len(rows) - 1, part.sequence))
        parts = [
            (count, [(part.start + 1, part.sequence.blocks, part.sequence.shared) for part in members])
            for count, members in groups.items()
        ]
        past = View.of(self.pool, parts, hides_first=True)
        before_ND = hidden_ND[torch.tensor(rows, device=self.device)]
        drafted_ND = self.model.draft(before_ND, torch.tensor(tokens, device=self.device), past)
        if last:
            chosen = torch.tensor([row for row, _ in last], device=self.device)
            proposals = self.model.logits(drafted_ND[chosen]).argmax(-1).tolist()
            for (_, sequence), token in zip(last, proposals, strict=True):
                sequence.draft = token

    def _count(self, **added: int) -> None:
        counts = {name: getattr(self._counts, name) + number for name, number in added.items()}
        self._counts = replace(self._counts, **counts)


def _compiled(model: Transformer, pool: Pool) -> CompiledStep:
    """The compiled step, both its graphs made."""
    from hanse.serve.compiled import CompiledStep

    if isinstance(model, ForeignModel):
        raise InputError("--compile: models that transformers computes are not compiled here; leave it out.")
    step = CompiledStep(model, pool)
    try:
        step.warm_up()
    except Exception as error:  # the compiler's own kinds, and those of a C++ compiler that is not there
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"--compile: the step cannot be compiled here ({first[:200]}); leave it out.") from error
    return step


def _control_id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise InputError(f"The tokenizer lacks {token}: train it with the special tokens for chat.")
    return int(token_id)


def load_engine(folder: Path, runtime: Runtime | None = None, **settings: Any) -> Engine:
    """Open a model folder or a released folder.

    Args:
        settings: see `Engine`.

    Raises:
        InputError: if the folder holds no model, no tokenizer, or two that do not fit together.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {name} is missing, so this is no model folder; name a model or a release.")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise InputError(f"{folder / 'tokenizer.json'}: no tokenizer that can be read ({error}).") from error
    model = hf.load(folder)
    if tokenizer.get_vocab_size() > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size()} tokens, but the model knows "
            f"{model.config.vocab_size}; these two do not belong together."
        )
    return Engine(model, tokenizer, runtime or Runtime.detect(), **settings)
