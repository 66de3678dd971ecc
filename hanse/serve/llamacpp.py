"""llama.cpp behind the API: its own server, from the `xllamacpp` wheel, asked by token ids.

The model folder becomes a GGUF file in a temporary folder, and the server runs in a process of its own on 127.0.0.1, at
a port that the system gives and with a key that nobody else has. Prompts go in as token ids and answers come out as
token ids, so chat template, special tokens, stop strings and cut characters mean here what they mean with our engine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model.config import open_config
from hanse.release.convert import fill_gguf
from hanse.serve import grammar, llamacpp_process
from hanse.serve.llamacpp_stream import Answer, Refused, events
from hanse.serve.request import Output, Request, Stats, room_behind
from hanse.store.disk import full_disk
from hanse.tune.template import END_OF_TEXT, END_OF_TURN

#: Seconds until a process that was asked to end is made to.
_PATIENCE = 5.0
_LARGEST_SEED = 2**31 - 1
#: In our order; llama.cpp's own has the temperature last.
_SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
#: For the likeliest token; at a temperature of 0 it would go on to take the exponential of every logit, and draw.
_GREEDY_SAMPLERS = ("penalties", "top_k")


class LlamaCppBackend:
    """A `Backend` on llama.cpp's server. Several requests run at a time; more wait in its queue.

    Attributes:
        name, tokenizer, context, end_ids: see `Backend`.
        parallel: requests that run at a time.
    """

    name = "llama.cpp"

    def __init__(
        self, process: subprocess.Popen[bytes], address: str, key: str, *, tokenizer: Tokenizer, context: int,
        end_ids: frozenset[int], parallel: int,
    ) -> None:  # fmt: skip
        """Use `open`."""
        self.tokenizer = tokenizer
        self.context = context
        self.end_ids = end_ids
        self.parallel = parallel
        self._process = process
        place = urlsplit(address)
        self._host, self._port = place.hostname or "127.0.0.1", place.port or 0
        self._head = (
            f"POST /completion HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\nContent-Length: "
        ).encode()
        self._active: set[Answer] = set()
        self._salt: str | None = None
        self._is_shared = False
        self._is_closed = False
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        type: str = "f32",
        parallel: int = 8,
    ) -> LlamaCppBackend:
        """Convert a model folder and start the server on it. Returns when it answers.

        Args:
            folder: of a `deepseek_v3` or `apertus` model, or a release of one.
            threads: of the computation; None takes all cores that this process may use.
            context: the most tokens of a prompt and its answer; None takes the model's. Memory for `parallel` times as
                many is taken at once.
            type: how weights are packed, see `hanse export`. With "f32" the cache is float32 too, and greedy answers
                are those of our engine; with any other it is float16.
            parallel: requests that run at a time.

        Raises:
            InputError: the wheel is missing, the folder cannot be converted, a setting is out of range, or the server
                does not start, with the last line that it said.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise InputError("llama.cpp comes with the package xllamacpp: pip install 'hanse[llama-cpp]'.")
        tokenizer, end_ids, longest = open_tokenizer(folder)
        context = longest if context is None else context
        if not 1 < context <= longest:
            raise InputError(f"context {context}: give 2 to {longest}, which is what the model was trained with.")
        if not 1 <= parallel <= 256:
            raise InputError(f"{parallel} requests at a time: give 1 to 256.")
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads: give 1 or more.")
        if threads is None:
            from hanse.runtime import usable_cores

            threads = usable_cores()  # llama.cpp itself would count those of the machine, not of the container
        key = secrets.token_urlsafe(32)
        with tempfile.TemporaryDirectory(prefix="hanse-llama-") as room:
            settings = {
                "model": str(_convert(folder, Path(room), type)), "key": key, "context": context, "parallel": parallel,
                "threads": threads, "exact": type == "f32",
            }  # fmt: skip
            process, address = _start(settings, Path(room))
        # The file has no name any more, but the server has it mapped; so nothing is left, however either of us ends.
        return cls(process, address, key, tokenizer=tokenizer, context=context, end_ids=end_ids, parallel=parallel)

    async def generate(self, request: Request) -> AsyncIterator[Output]:
        """See `Backend.generate`. Answers to the same seed can differ in a near tie, as other requests share the batch.

        Raises:
            InputError: as there; also routes, logprobs of the prompt, and penalties of the answer alone.
            RuntimeError: the server is gone, or said what it should not.
        """
        sampling = request.sampling.check()
        room = room_behind(request.prompt, self.context)
        _refuse(request)
        if self._is_closed:
            raise RuntimeError("llama.cpp was closed")
        answer = Answer(self.tokenizer, sampling, self.end_ids)
        remaining = None if request.deadline is None else request.deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            yield Output(finish="deadline")
            return
        body = json.dumps(self._payload(request, min(room, sampling.max_tokens))).encode()
        self._active.add(answer)
        self._prompt_tokens += len(request.prompt)
        answer.held = len(request.prompt)
        timer = None
        try:
            reader, answer.writer = await asyncio.open_connection(self._host, self._port)
            if remaining is not None:
                timer = asyncio.get_running_loop().call_later(remaining, answer.end, "deadline")
            answer.writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
            async with aclosing(events(reader)) as arrivals:
                async for together in arrivals:
                    if (output := answer.take_all(together)) is not None:
                        self._cached_tokens += output.cached
                        self._generated_tokens += len(output.tokens)
                        yield output
                        if output.finish is not None:
                            return
            raise ConnectionError("the answer broke off")
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            if answer.ended is None:
                raise self._broken(error) from error
            yield answer.last(answer.ended)
        finally:
            if timer is not None:
                timer.cancel()
            answer.end("cancelled")  # the server stops when it sees the connection gone
            self._active.discard(answer)

    def stats(self) -> Stats:
        """Its figures now."""
        held = sorted((answer.held for answer in self._active), reverse=True)[: self.parallel]
        return Stats(
            running=min(len(self._active), self.parallel),
            waiting=max(0, len(self._active) - self.parallel),
            cache_tokens=sum(held),
            cache_capacity=self.context * self.parallel,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )

    async def close(self) -> None:
        """End every request and the server."""
        if self._is_closed:
            return
        self._is_closed = True
        for answer in list(self._active):
            answer.end("cancelled")
        await asyncio.to_thread(_stop, self._process)

    def _payload(self, request: Request, max_tokens: int) -> dict[str, Any]:
        """The request as llama.cpp takes it; every setting is named, for its own defaults are others."""
        sampling = request.sampling
        is_greedy = sampling.temperature == 0
        # Its cached prompts know no salt. As long as all requests have the same one, they may use them.
        self._is_shared |= self._salt not in (None, request.salt)
        self._salt = request.salt
        seed = secrets.randbelow(_LARGEST_SEED) if sampling.seed is None else sampling.seed % _LARGEST_SEED
        payload: dict[str, Any] = {
            "prompt": list(request.prompt),
            "n_predict": max_tokens,
            "stream": True,
            "return_tokens": True,
            "return_progress": True,
            "cache_prompt": not self._is_shared,
            "samplers": list(_GREEDY_SAMPLERS if is_greedy else _SAMPLERS),
            "temperature": sampling.temperature,
            "top_k": 1 if is_greedy else sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": self.context if sampling.repetition_penalty != 1.0 else 0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "ignore_eos": sampling.ignore_end,
            "n_probs": 0 if sampling.logprobs is None else max(1, sampling.logprobs),
        }
        if sampling.schema is not None:
            payload["grammar"] = _grammar(sampling.schema, self.tokenizer)
        return payload

    def _broken(self, error: Exception) -> Exception:
        """What to tell of a connection that failed: the server's own refusal, or that it is gone."""
        if isinstance(error, Refused):
            return InputError(str(error))
        code = self._process.poll()
        if code is not None:
            return RuntimeError(f"llama.cpp has ended with code {code}; start it again")
        return RuntimeError(f"llama.cpp answers no more ({error or type(error).__name__})")


def _refuse(request: Request) -> None:
    """Refuse what llama.cpp's server cannot do, or would do with another meaning."""
    sampling = request.sampling
    if request.records_routes:
        raise InputError("llama.cpp does not tell which experts a token chose; use --engine native to record routes.")
    if request.prompt_logprobs:
        raise InputError("llama.cpp gives no logprobs of the prompt; use --engine native for them.")
    if sampling.presence_penalty or sampling.frequency_penalty:
        raise InputError(
            "presence_penalty and frequency_penalty: llama.cpp would count the tokens of the prompt too; use "
            "repetition_penalty, or --engine native."
        )


def _grammar(text: str, tokenizer: Tokenizer) -> str:
    """A schema in the words of llguidance, which the wheel is built with. Its vocabulary here spells bytes beyond ASCII
    as letters, so the schema does too.

    Raises:
        InputError: a schema that our own grammar does not take (llama.cpp would answer without one), or one that
            speaks of characters where llama.cpp sees bytes.
    """
    grammar.compile_schema(text, tokenizer, tokenizer.get_vocab_size())
    schema = json.loads(text)
    schema.pop("x-guidance", None)
    # The library inside the wheel takes separators as they stand, ours takes them as expressions.
    style = {**grammar.STYLE, "item_separator": ",", "key_separator": ":"}
    spelled = {**_spelled(schema or {"type": "object"}), "x-guidance": style}
    # Forcing what must follow asks llama.cpp for the tokens of half a letter; it has none and gives the grammar up.
    return '%llguidance {"no_forcing": true}\nstart: %json ' + json.dumps(spelled)


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("latin-1")
    if isinstance(value, list):
        return [_spelled(each) for each in value]
    if not isinstance(value, dict):
        return value
    named = value.get("patternProperties")
    patterns = [value.get("pattern"), *(named if isinstance(named, dict) else ())]
    if any(isinstance(each, str) and not each.isascii() for each in patterns):
        raise InputError("schema: llama.cpp matches patterns of ASCII letters only; use --engine native.")
    if isinstance(value.get("minLength"), int) and value["minLength"] > 1:
        raise InputError("schema: minLength above 1 would count bytes with llama.cpp; use --engine native.")
    return {_spelled(key): _spelled(each) for key, each in value.items()}


# --------------------------------------------------------------------------- the process


def open_tokenizer(folder: Path) -> tuple[Tokenizer, frozenset[int], int]:
    """Tokenizer, end tokens and longest context of a model folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder}: tokenizer.json is missing, so this is no model folder; name a model or a release.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise InputError(f"{path}: no tokenizer that can be read ({error}).") from error
    ends = set()
    for token in (END_OF_TURN, END_OF_TEXT):
        number = tokenizer.token_to_id(token)
        if number is None:
            raise InputError(f"{path}: lacks {token}; train the tokenizer with the special tokens for chat.")
        ends.add(number)
    return tokenizer, frozenset(ends), open_config(folder).max_position_embeddings


def _convert(folder: Path, room: Path, kind: str) -> Path:
    model = room / "model.gguf"
    try:
        fill_gguf(folder, model, kind=kind, sends_every_token=True)  # type: ignore[arg-type]
    except OSError as error:
        told = full_disk(error, room, "the GGUF file for llama.cpp", room)
        raise told or InputError(f"{room}: cannot be written ({error.strerror}).") from error
    return model


def _start(settings: dict[str, Any], room: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server. Returns its process and address once the model is loaded."""
    said = room / "said"
    with said.open("wb") as errors:
        process = subprocess.Popen(
            # -P: the modules beside the file shall not stand before the installed ones.
            [sys.executable, "-P", llamacpp_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for us, and we end it
            # Its threads meet after every product. If they wait by spinning, a busy neighbour stops all of them.
            env={"GOMP_SPINCOUNT": "4000", **os.environ},
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            process.wait(_PATIENCE)
            lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
            raise InputError(f"llama.cpp does not start with this model: {lines[-1].strip()[:500]}")
        return process, str(json.loads(line)["address"])
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server: by closing its input, by asking, by force."""
    for ask in (process.stdin.close if process.stdin else process.terminate, process.terminate, process.kill):
        with suppress(OSError):
            ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
            break
    if process.stdout is not None:
        process.stdout.close()
