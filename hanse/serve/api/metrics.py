"""Figures for Prometheus: what the engine does, and what became of the requests. No text of users, no client addresses.

The registry is our own: the default one of `prometheus_client` is shared by everything in the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hanse.serve.api.call import Call
from hanse.serve.request import Stats

_GAUGES = {
    "running": "Requests that the engine computes now.",
    "waiting": "Requests that wait for the engine.",
    "cache_tokens": "Tokens whose attention state is held for running requests.",
    "cache_capacity": "Tokens whose attention state fits.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that were found in the cache.",
    "generated_tokens": "Tokens of answers.",
    "preemptions": "Times a request gave up its cache for another and was computed again.",
    "drafted": "Tokens proposed by the multi-token block.",
    "accepted": "Proposed tokens that were right.",
}
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_METHODS = frozenset({"GET", "HEAD", "POST"})


class Metrics:
    """Counts of one application.

    Args:
        stats: the engine's figures now.
        places: answers under way, as the bounded queue counts them.
        ended: answers ended at a withdrawn passage.
    """

    def __init__(
        self, stats: Callable[[], Stats], places: Callable[[], int], ended: Callable[[], int] = lambda: 0
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(stats, places, ended))
        self._requests = Counter(
            "hanse_requests", "Requests by what became of them.", ("method", "path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "hanse_request_seconds", "From the head of a request to the end of its response.", ("path",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._first = Histogram(
            "hanse_first_token_seconds", "From the head of a request to the first token of its answer.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def count(self, call: Call) -> None:
        """A request has ended."""
        method = call.method if call.method in _METHODS else "other"
        self._requests.labels(method, call.path, str(call.status)).inc()
        self._seconds.labels(call.path).observe(time.monotonic() - call.started)
        if call.first is not None:
            self._first.observe(call.first - call.started)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


class _Engine(Collector):
    """The engine's figures, asked for when Prometheus asks."""

    def __init__(self, stats: Callable[[], Stats], places: Callable[[], int], ended: Callable[[], int]) -> None:
        self._stats = stats
        self._places = places
        self._ended = ended

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, about in _GAUGES.items():
            yield GaugeMetricFamily(f"hanse_{name}", about, getattr(stats, name))
        for name, about in _COUNTERS.items():
            yield CounterMetricFamily(f"hanse_{name}", about, getattr(stats, name))
        yield GaugeMetricFamily("hanse_answers_under_way", "Answers begun and not ended.", self._places())
        yield CounterMetricFamily("hanse_answers_filtered", "Answers ended at a withdrawn passage.", self._ended())
