"""A request on its way through the engine: what is computed, what is said, when it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer

from hanse.serve.blocks import digest_of
from hanse.serve.detokenize import Detokenizer, StopStrings
from hanse.serve.request import Finish, Logprob, Output, Request
from hanse.serve.sampler import Sampler

Routes = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(eq=False)
class Sequence:
    """One request.

    Attributes:
        request, sampler: what was asked for, and how its tokens are drawn.
        sink: takes each piece of the answer.
        room: tokens that the answer may have.
        end_ids: tokens that end it.
        tokens: prompt and answer.
        computed: of these, how many have their state in `blocks`.
        shared: how many of these lie in blocks that others may read: nothing is written there.
        blocks: where the state lies.
        digests: of the full blocks of `tokens`, as far as known.
        draft: what the multi-token block expects next.
        finish: why it is over.
        kept: full blocks that others can find.
        cached, prompt_logprobs, routes: still to be told.
        routed: tokens whose routes are noted.
    """

    request: Request
    sampler: Sampler
    sink: Callable[[Output], None]
    room: int
    end_ids: frozenset[int]
    detokenizer: Detokenizer
    stops: StopStrings
    tokens: list[int]
    computed: int = 0
    shared: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    draft: int | None = None
    finish: Finish | None = None
    kept: int = 0
    cached: int = 0
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    routes: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    routed: int = 0

    @classmethod
    def of(
        cls,
        request: Request,
        sampler: Sampler,
        sink: Callable[[Output], None],
        *,
        tokenizer: Tokenizer,
        room: int,
        end_ids: frozenset[int],
    ) -> Sequence:
        """A request that waits."""
        stops = StopStrings(request.sampling.stop)
        return cls(request, sampler, sink, room, end_ids, Detokenizer(tokenizer), stops, list(request.prompt))

    @property
    def said(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def left(self) -> int:
        """Tokens without their state: one while an answer grows, more at the start or after being put back."""
        return len(self.tokens) - self.computed

    def prefix_digests(self, size: int) -> list[bytes]:
        """Digests of all blocks of `size` tokens that `tokens` fills."""
        for begin in range(len(self.digests) * size, len(self.tokens) // size * size, size):
            before = self.digests[-1] if self.digests else self.request.salt.encode()
            self.digests.append(digest_of(before, self.tokens[begin : begin + size]))
        return self.digests

    def note_routes(self, start: int, routes: Routes) -> None:
        """Keep the routes of the tokens from place `start` on, each once, also where it is computed again."""
        self.routes += routes[max(0, self.routed - start) :]
        self.routed = max(self.routed, start + len(routes))

    def add(self, token: int, logprob: Logprob | None = None) -> None:
        """Take a drawn token: tell the client, and see whether the answer is over."""
        self.sampler.accept(token)
        if token in self.end_ids and not self.request.sampling.ignore_end:
            self.end("stop")
            return
        self.tokens.append(token)
        text = self.stops.add(self.detokenizer.add(token))
        if self.stops.found or self.sampler.is_finished:
            grammar = self.sampler.grammar
            self.finish = "length" if grammar is not None and grammar.error else "stop"  # it gave up: the text is cut
        elif self.said >= self.room:
            self.finish = "length"
        if self.finish is not None:
            text += self._rest()
        self._tell(Output((token,), text, (logprob,) if logprob else (), self.finish))

    def end(self, finish: Finish) -> None:
        """End the answer as it is."""
        self.finish = finish
        self._tell(Output(text=self._rest(), finish=finish))

    def _rest(self) -> str:
        """What was kept back, now that no more comes."""
        return self.stops.add(self.detokenizer.finish()) + self.stops.finish()

    def _tell(self, output: Output) -> None:
        """Hand a piece out, with what the request gathered since the last one."""
        if self.cached or self.prompt_logprobs or self.routes:
            output = replace(
                output, cached=self.cached, prompt_logprobs=tuple(self.prompt_logprobs), routes=tuple(self.routes)
            )
            self.cached, self.prompt_logprobs, self.routes = 0, [], []
        self.sink(output)
