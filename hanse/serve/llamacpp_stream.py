"""A streamed answer of llama.cpp's server: from bytes of HTTP to pieces of an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from tokenizers import Tokenizer

from hanse.serve.detokenize import Detokenizer, StopStrings
from hanse.serve.request import Finish, Logprob, Output, Sampling


class Refused(ValueError):
    """The server's own words for a request that it does not take."""


class Answer:
    """One answer as it comes in: its text, what was said of it, and its connection."""

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling, end_ids: frozenset[int]) -> None:
        self._text = Detokenizer(tokenizer)
        self._stops = StopStrings(sampling.stop)
        self._sampling = sampling
        self._end_ids = end_ids
        self._counted = 0
        self._cached: int | None = None
        self._json = None if sampling.schema is None else ""
        self.held = 0
        self.writer: asyncio.StreamWriter | None = None
        self.ended: Finish | None = None

    def end(self, why: Finish) -> None:
        """Cut the connection."""
        self.ended = self.ended or why
        if self.writer is not None:
            self.writer.transport.abort()

    def take_all(self, events: list[dict[str, Any]]) -> Output | None:
        """What several events add, up to the end of the answer: one piece costs whoever passes it on less than many."""
        outputs: list[Output] = []
        for event in events:
            if (output := self.take(event)) is not None:
                outputs.append(output)
                if output.finish is not None:
                    break
        if len(outputs) < 2:
            return outputs[0] if outputs else None
        return Output(
            tokens=tuple(token for output in outputs for token in output.tokens),
            text="".join(output.text for output in outputs),
            logprobs=tuple(logprob for output in outputs for logprob in output.logprobs),
            finish=outputs[-1].finish,
            cached=sum(output.cached for output in outputs),
        )

    def take(self, event: dict[str, Any]) -> Output | None:
        """What an event of the stream adds; None if nothing."""
        if "error" in event:
            raise Refused(_message(event["error"]))
        if "prompt_progress" in event:  # it carries a token 0 that nobody drew
            self._cached = int(event["prompt_progress"].get("cache", 0))
            return None
        if event.get("stop"):
            is_whole = event.get("stop_type") == "eos"
            output = self.last("stop" if is_whole else "length")
            if is_whole and self._json is not None:
                _check_json(self._json + output.text)
            return output
        tokens = [int(token) for token in event.get("tokens", ())]
        counted = int(event.get("tokens_predicted", self._counted + len(tokens)))
        if not tokens:
            return None
        if counted - self._counted != len(tokens):
            raise RuntimeError("llama.cpp kept a token back, so the answer would have a hole")
        self._counted = counted
        tokens = [token for token in tokens if token not in self._end_ids]
        if not tokens:
            return None
        self.held += len(tokens)
        text = "".join(self._stops.add(self._text.add(token)) for token in tokens)
        if self._json is not None:
            self._json += text
        return Output(
            tokens=tuple(tokens),
            text=text,
            logprobs=self._logprobs(event) if self._sampling.logprobs is not None else (),
            finish="stop" if self._stops.found else None,
            cached=self._once(),
        )

    def last(self, finish: Finish) -> Output:
        """The end: what was kept back comes out."""
        text = self._stops.add(self._text.finish())
        if self._stops.found:
            finish = "stop"
        return Output(text=text + self._stops.finish(), finish=finish, cached=self._once())

    def _once(self) -> int:
        cached, self._cached = self._cached or 0, 0
        return cached

    def _logprobs(self, event: dict[str, Any]) -> tuple[Logprob, ...]:
        wanted = self._sampling.logprobs or 0
        return tuple(
            Logprob(
                token=int(each["id"]),
                value=float(each["logprob"]),
                top=tuple((int(top["id"]), float(top["logprob"])) for top in each["top_logprobs"][:wanted]),
            )
            for each in event["completion_probabilities"]
        )


def _check_json(text: str) -> None:
    """Raise RuntimeError for what is no JSON: when llama.cpp gives a grammar up, it goes on without a word."""
    try:
        json.loads(text)
    except ValueError as error:
        raise RuntimeError("llama.cpp gave the grammar up, and the answer is no JSON") from error


def _message(error: object) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return f"llama.cpp does not take this request ({str(text)[:500].rstrip('.')})."


async def events(reader: asyncio.StreamReader) -> AsyncGenerator[list[dict[str, Any]], None]:
    """The events of a streamed answer, those together that arrived together.

    Read by hand: h11, on which httpx stands, takes 14 microseconds a chunk and this takes 2, on a core that the model
    wants too.

    Raises:
        Refused: an answer that is no stream.
        OSError, asyncio.IncompleteReadError, ValueError: a connection that broke, or what is no HTTP.
    """
    status = (await reader.readline()).split(b" ", 2)
    headers = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip().lower()
    if len(status) < 2 or status[1] != b"200":
        length = int(headers.get("content-length", "0"))
        body = await reader.readexactly(length) if length else b""
        try:
            refusal = _message(json.loads(body)["error"])
        except (ValueError, LookupError, TypeError):
            refusal = ""
        if refusal and status[1:2] == [b"400"]:
            raise Refused(refusal)
        raise ConnectionError(f"status {b' '.join(status).decode('latin-1').strip() or 'missing'}")
    raw = text = b""
    is_over = False
    while not is_over:
        arrived = await reader.read(2**16)
        if not arrived:
            raise ConnectionError("the answer broke off")
        body, raw, is_over = unchunked(raw + arrived)
        *parts, text = (text + body).split(b"\n\n")
        if events := [event for part in parts if (event := _event(part)) is not None]:
            yield events


def unchunked(raw: bytes) -> tuple[bytes, bytes, bool]:
    """The content of whole chunks (RFC 9112, section 7.1), what is left, and whether the last one was there."""
    found: list[bytes] = []
    start = 0
    while (end := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:end], 16)
        if size == 0:
            return b"".join(found), b"", True
        stop = end + 2 + size
        if len(raw) < stop + 2:
            break
        found.append(raw[end + 2 : stop])
        start = stop + 2
    return b"".join(found), raw[start:], False


def _event(part: bytes) -> dict[str, Any] | None:
    """One event of a stream; None for a comment, or the mark at its end."""
    kind, _, data = part.partition(b": ")
    if kind not in (b"data", b"error") or data == b"[DONE]":
        return None
    found: dict[str, Any] = json.loads(data)
    return found if kind == b"data" else {"error": found}
