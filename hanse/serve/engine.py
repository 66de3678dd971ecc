"""Generation with a cache: one stream for a person, many short answers at once for an evaluation.

Everything is computed in float32, whatever the training used: greedy text then equals that of transformers on the
released folder, and a near tie does not fall differently from machine to machine.

# B rows of a batch, T positions, D hidden, V vocabulary
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.cache import Cache
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.detokenize import Detokenizer, StopStrings
from hanse.serve.sampler import check, sample
from hanse.tune.template import END_OF_TEXT, END_OF_TURN

#: Tokens of one prefill: keeps the float32 activations of a small model within some 200 MB.
PREFILL_TOKENS = 16_384
#: Rows that are decoded together; beyond this a step on a CPU costs as much per row.
DECODE_ROWS = 512


class Engine:
    """A model that answers. One at a time: it holds no state between calls, but a call uses the whole device."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, runtime: Runtime) -> None:
        self.model = model.to(device=runtime.device, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.device = runtime.device
        self.context = model.config.max_position_embeddings
        self.end_ids = frozenset(_control_id(tokenizer, token) for token in (END_OF_TURN, END_OF_TEXT))

    def text(self, ids: Iterable[int]) -> str:
        """Plain text of token ids, without control tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    @torch.inference_mode()
    def tokens(
        self, ids: Sequence[int], *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[int]:
        """Token ids that follow `ids`, one by one, up to an end token (not given out) or the end of the context.

        Raises:
            InputError: an empty prompt, one that fills the context, or sampling settings out of range.
        """
        check(temperature=temperature, top_p=top_p)
        room = self._room(ids)
        generator = torch.Generator().manual_seed(seed)
        cache = self.model.new_cache(1, capacity=min(len(ids) + max_tokens, self.context))
        logits_BV = self._forward(torch.tensor([list(ids)], device=self.device), cache, start=0)
        for position in range(len(ids), len(ids) + min(max_tokens, room)):
            token_id = sample(logits_BV[0], temperature=temperature, top_p=top_p, generator=generator)
            if token_id in self.end_ids:
                return
            yield token_id
            if position + 1 < len(ids) + min(max_tokens, room):
                logits_BV = self._forward(torch.tensor([[token_id]], device=self.device), cache, start=position)

    def stream(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Text that follows `ids`, in pieces of whole characters, up to an end token or one of the `stop` strings.

        Args:
            ids: the prompt, not empty, shorter than the context.
            max_tokens: the most tokens to generate; fewer where the context ends.
            temperature, top_p, seed: see `sampler.sample`; a temperature of 0 is greedy.
            stop: texts at which to end; they are not given out.

        Raises:
            InputError: see `tokens`.
        """
        detokenizer, stops = Detokenizer(self.tokenizer), StopStrings(tuple(stop))
        for token_id in self.tokens(ids, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed):
            if piece := stops.add(detokenizer.add(token_id)):
                yield piece
            if stops.found:
                return
        if piece := stops.add(detokenizer.finish()) + stops.finish():
            yield piece

    @torch.inference_mode()
    def complete(self, prompts: Sequence[Sequence[int]], *, max_tokens: int | Sequence[int]) -> list[list[int]]:
        """The greedy continuation of many prompts, in their order, each without its end token.

        Prompts of one length form batches, so there is no padding; a row leaves its batch when it is done.

        Args:
            prompts: token ids; none empty, all shorter than the context.
            max_tokens: the most tokens to generate, for all or for each prompt.
        """
        limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
        if len(limits) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(limits)} limits")
        limits = [min(limit, self._room(ids)) for limit, ids in zip(limits, prompts, strict=True)]
        of_length: dict[int, list[int]] = defaultdict(list)
        for index, ids in enumerate(prompts):
            of_length[len(ids)].append(index)
        completions: list[list[int]] = [[] for _ in prompts]
        for length in sorted(of_length):
            rows = max(1, min(DECODE_ROWS, PREFILL_TOKENS // length))
            members = of_length[length]
            for start in range(0, len(members), rows):
                self._complete_batch(members[start : start + rows], prompts, limits, completions)
        return completions

    def _complete_batch(
        self, members: list[int], prompts: Sequence[Sequence[int]], limits: list[int], completions: list[list[int]]
    ) -> None:
        """Decode prompts of equal length together; `completions` of the members grow in place."""
        members = [index for index in members if limits[index] > 0]
        if not members:
            return
        position = len(prompts[members[0]])
        cache = self.model.new_cache(len(members), capacity=position + max(limits[index] for index in members))
        tokens_BT = torch.tensor([list(prompts[index]) for index in members], device=self.device)
        logits_BV = self._forward(tokens_BT, cache, start=0)
        while True:
            chosen = logits_BV.argmax(-1).tolist()
            going: list[int] = []
            for row, (index, token_id) in enumerate(zip(members, chosen, strict=True)):
                if token_id in self.end_ids:
                    continue
                completions[index].append(token_id)
                if len(completions[index]) < limits[index]:
                    going.append(row)
            if not going:
                return
            if len(going) < len(members):
                cache.keep(torch.tensor(going, device=self.device))
                members = [members[row] for row in going]
                chosen = [chosen[row] for row in going]
            logits_BV = self._forward(torch.tensor(chosen, device=self.device)[:, None], cache, start=position)
            position += 1

    def _forward(self, tokens_BT: Tensor, cache: Cache, *, start: int) -> Tensor:
        """Logits of the last position, (B, V) float32."""
        hidden_BTD = self.model(tokens_BT, cache=cache, start=start)
        return self.model.logits(hidden_BTD[:, -1])

    def _room(self, ids: Sequence[int]) -> int:
        """Tokens that still fit behind a prompt."""
        if not ids:
            raise InputError("The prompt is empty: give at least one token.")
        if len(ids) >= self.context:
            raise InputError(
                f"The prompt is {len(ids)} tokens long, but the model sees {self.context} at a time: shorten it."
            )
        return self.context - len(ids)


def _control_id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise InputError(f"The tokenizer lacks {token}: train it with the special tokens for chat.")
    return int(token_id)


def load_engine(folder: Path, runtime: Runtime | None = None) -> Engine:
    """Open a model folder or a released folder.

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
    return Engine(model, tokenizer, runtime or Runtime.detect())
