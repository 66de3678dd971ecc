"""vLLM behind the API, where it is installed: for a GPU, and for several.

vLLM brings its own torch and pins it, so it is no extra of ours: install it into an environment of its own, and Hanse
beside it. It runs in its own processes and is asked by token ids; stop strings and cut characters are ours.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model.config import ModelConfig, open_config
from hanse.serve.detokenize import Detokenizer, StopStrings
from hanse.serve.llamacpp import open_tokenizer
from hanse.serve.request import Finish, Logprob, Output, Request, Stats, room_behind

#: Widths of the latent cache that vLLM's attention kernels take; for another it has to expand the cache.
_LATENT_WIDTHS = (320, 512, 576)


class VllmBackend:
    """A `Backend` on vLLM's AsyncLLM.

    Attributes:
        name, tokenizer, context, end_ids: see `Backend`.
    """

    name = "vllm"

    def __init__(self, engine: Any, *, tokenizer: Tokenizer, context: int, end_ids: frozenset[int]) -> None:
        """Use `open`."""
        self.tokenizer = tokenizer
        self.context = context
        self.end_ids = end_ids
        self._engine = engine
        self._running: dict[str, int] = {}
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    @classmethod
    def open(cls, folder: Path, *, context: int | None = None, dtype: str = "auto") -> VllmBackend:
        """Start vLLM on a model folder. To be called where its event loop runs.

        Args:
            folder: in the Hugging Face layout.
            context: the most tokens of a prompt and its answer; None takes the model's.
            dtype: "auto", "float32", "bfloat16" or "float16".

        Raises:
            InputError: vLLM is not installed, or the folder cannot be read.
        """
        if importlib.util.find_spec("vllm") is None:
            raise InputError("vLLM is not installed here; see https://docs.vllm.ai for the wheel of your GPU.")
        tokenizer, end_ids, longest = open_tokenizer(folder)
        for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
            os.environ[name] = "1"
        config = open_config(folder)
        if isinstance(config, ModelConfig) and config.cache_width not in _LATENT_WIDTHS:
            os.environ["VLLM_MLA_DISABLE"] = "1"
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        further: dict[str, Any] = {}
        if current_platform.is_cpu():
            # Its RMSNorm for CPUs reads slices wrongly, and the latent attention slices: other text, no error.
            further["compilation_config"] = {"custom_ops": ["none"]}
        engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(folder), tokenizer=str(folder), max_model_len=context or longest, dtype=dtype,
                trust_remote_code=False, disable_log_stats=True, **further,
            )
        )  # fmt: skip
        return cls(engine, tokenizer=tokenizer, context=context or longest, end_ids=end_ids)

    async def generate(self, request: Request) -> AsyncIterator[Output]:
        """See `Backend.generate`.

        Raises:
            InputError: as there; also routes, and what vLLM refuses.
        """
        request.sampling.check()
        if request.records_routes:
            raise InputError("vLLM records no routes here; use --engine native.")
        room_behind(request.prompt, self.context)
        text, stops = Detokenizer(self.tokenizer), StopStrings(request.sampling.stop)
        number, cached, is_first = uuid.uuid4().hex, 0, True
        prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt)}
        if request.salt:
            prompt["cache_salt"] = request.salt
        self._running[number] = len(request.prompt)
        self._prompt_tokens += len(request.prompt)
        ends = frozenset[int]() if request.sampling.ignore_end else self.end_ids
        finish: Finish | None = None
        try:
            stream = self._engine.generate(prompt, self._parameters(request), number)
            async with aclosing(stream) as pieces:
                async for piece in _until(pieces, request.deadline):
                    if piece is None:
                        finish = "deadline"
                        break
                    made = piece.outputs[0]
                    tokens = tuple(token for token in made.token_ids if token not in ends)
                    self._running[number] += len(tokens)
                    self._generated_tokens += len(tokens)
                    cached = piece.num_cached_tokens or 0
                    said = "".join(stops.add(text.add(token)) for token in tokens)
                    finish = "stop" if stops.found else _finish(made.finish_reason)
                    yield Output(
                        tokens=tokens,
                        text=said,
                        logprobs=_logprobs(made.token_ids[: len(tokens)], made.logprobs, request.sampling.logprobs),
                        cached=cached if is_first else 0,
                        prompt_logprobs=_prompt_logprobs(request, piece.prompt_logprobs) if is_first else (),
                    )
                    is_first = False
                    if finish is not None:
                        break
        except ValueError as error:  # its class for a request that it does not take
            raise InputError(f"vLLM does not take this request ({str(error)[:500].rstrip('.')}).") from error
        finally:
            self._cached_tokens += cached
            del self._running[number]
            with suppress(Exception):
                await self._engine.abort(number)
        rest = stops.add(text.finish())
        yield Output(text=rest + stops.finish(), finish="stop" if stops.found else finish or "cancelled")

    def stats(self) -> Stats:
        """Its figures now; vLLM's own queue is not looked into."""
        return Stats(
            running=len(self._running),
            cache_tokens=sum(self._running.values()),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )

    async def close(self) -> None:
        """End its processes."""
        await asyncio.to_thread(self._engine.shutdown)

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        sampling = request.sampling
        structured = None
        if sampling.schema is not None:
            schema = json.loads(sampling.schema)
            structured = StructuredOutputsParams(json=schema) if schema else StructuredOutputsParams(json_object=True)
        return SamplingParams(
            max_tokens=min(sampling.max_tokens, self.context - len(request.prompt)),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            stop_token_ids=[] if sampling.ignore_end else sorted(self.end_ids),
            ignore_eos=sampling.ignore_end,
            logprobs=sampling.logprobs,
            prompt_logprobs=(sampling.logprobs or 0) if request.prompt_logprobs else None,
            structured_outputs=structured,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


async def _until(pieces: Any, deadline: float | None) -> AsyncIterator[Any]:
    """The pieces of a stream, and None at the deadline (of `time.monotonic`)."""
    while True:
        try:
            if deadline is None:
                yield await anext(pieces)
            else:
                yield await asyncio.wait_for(anext(pieces), max(0.0, deadline - time.monotonic()))
        except StopAsyncIteration:
            return
        except TimeoutError:
            yield None
            return


def _finish(reason: str | None) -> Finish | None:
    return {"stop": "stop", "length": "length", None: None}.get(reason, "cancelled")  # type: ignore[return-value]


def _logprobs(
    tokens: tuple[int, ...] | list[int], found: list[Mapping[int, Any]] | None, wanted: int | None
) -> tuple[Logprob, ...]:
    """vLLM gives a table a token: the likeliest, and the drawn one among them or beside them."""
    if wanted is None or not found:
        return ()
    made = []
    for token, table in zip(tokens, found, strict=False):
        best = sorted(((each.logprob, number) for number, each in table.items()), reverse=True)[:wanted]
        top = tuple((number, float(value)) for value, number in best)
        made.append(Logprob(token, float(table[token].logprob), top))
    return tuple(made)


def _prompt_logprobs(request: Request, found: list[Mapping[int, Any] | None] | None) -> tuple[Logprob, ...]:
    if not request.prompt_logprobs or not found:
        return ()
    tables = [table for table in found[1:] if table is not None]
    return _logprobs(request.prompt[1:], tables, request.sampling.logprobs or 0)
