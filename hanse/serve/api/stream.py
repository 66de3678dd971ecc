"""Server-sent events as OpenAI's clients read them: one JSON object an event, `[DONE]` at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from hanse.errors import InputError
from hanse.serve.api.errors import ApiError, failed

DONE = "data: [DONE]\n\n"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: there is an event a token


def event(value: Mapping[str, Any]) -> str:
    """One event."""
    return f"data: {_encode(value)}\n\n"


async def response(events: AsyncIterator[str]) -> StreamingResponse:
    """The events as a response, once the first is there: a request that fails at once fails with a status."""
    first = await anext(events)
    return StreamingResponse(
        _guarded(first, events), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _guarded(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events, and `[DONE]`; a failure on the way becomes the last event, without `[DONE]`."""
    yield first
    try:
        async for each in events:
            yield each
    except ApiError as error:
        yield event(error.body())
    except InputError as error:
        yield event(ApiError(400, str(error)).body())
    except Exception as error:
        yield event(failed(error).body())
    else:
        yield DONE
