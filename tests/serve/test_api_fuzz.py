"""schemathesis against `/openapi.json`: a fixed number of requests, none of which the server may fail at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from served import MODEL, Scripted
from tokenizers import Tokenizer

from hanse.serve.api import Settings, create_app
from hanse.serve.request import Output

schemathesis = pytest.importorskip("schemathesis")

#: Requests to each of the two addresses that read a body, valid ones and broken ones.
EXAMPLES = 15
EXAMPLES_SLOW = 500
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def fuzz(tokenizer: Tokenizer, examples: int) -> Counter[int]:
    """Ask everything that the document allows, and what it forbids. Returns how often each status came."""
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

    backend = Scripted(tokenizer, [Output(tokens=(65, 66), text="AB")])
    app = create_app(backend, model=MODEL, release=None, settings=Settings(hosts=None))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: Counter[int] = Counter()

    def run(operation: Any, mode: Any) -> None:
        @settings(
            max_examples=examples, derandomize=True, database=None, deadline=None, phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                case.body["model"] = MODEL  # any other name is refused before the rest is looked at
            answer = case.call()
            # A valid request may still be too long, or name a tool that is not there; a broken one may be too long.
            unfit = [positive_data_acceptance, *([negative_data_rejection] if answer.status_code == 413 else [])]
            case.validate_response(answer, excluded_checks=unfit)
            statuses[answer.status_code] += 1

        ask()

    for path in ("/v1/chat/completions", "/v1/completions"):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            run(schema[path]["POST"], mode)
    for path in ("/v1/models", "/v1/models/{model}", "/health", "/metrics", "/record"):
        run(schema[path]["GET"], GenerationMode.POSITIVE)
    assert backend.running == 0
    return statuses


def test_no_generated_request_makes_the_server_fail(tokenizer: Tokenizer) -> None:
    statuses = fuzz(tokenizer, EXAMPLES)
    assert statuses.total() >= 4 * EXAMPLES
    assert statuses[200] > EXAMPLES / 2, "requests that are answered have to be among them"
    assert statuses[400] > EXAMPLES


@pytest.mark.slow
def test_as_many_generated_requests_as_the_page_says_make_the_server_fail_nowhere(tokenizer: Tokenizer) -> None:
    statuses = fuzz(tokenizer, EXAMPLES_SLOW)
    assert statuses.total() >= 4 * EXAMPLES_SLOW
    assert f"{4 * EXAMPLES_SLOW:,} generated requests" in PAGE.read_text(encoding="utf-8")
