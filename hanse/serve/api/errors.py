"""Every failure in the shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from hanse.errors import InputError

INVALID = "invalid_request_error"
SERVER = "server_error"
_SENTENCES = {
    404: "There is nothing at this address; the API is described in /openapi.json.",
    405: "This address does not take this method; see the Allow header.",
}


class ApiError(Exception):
    """A request that is refused, or an answer that could not be finished.

    Attributes:
        status: HTTP status.
        message: one sentence for a person.
        type, param, code: as in OpenAI's errors; `param` names the field of the request.
        headers: to send with the refusal, such as Retry-After in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The refusal as JSON values."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The refusal as an HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def internal() -> ApiError:
    """What a client is told of a fault of ours: nothing of its cause."""
    return ApiError(500, "The server failed at this request; its log says where.", type=SERVER, code="internal_error")


def failed(error: BaseException) -> ApiError:
    """Report a fault of ours. Returns what the client is told."""
    report(error)
    return internal()


def stopping() -> ApiError:
    """What a client is told whose answer is cut because the server stops."""
    return ApiError(503, "The server is stopping; the answer was not finished.", type=SERVER, code="stopping")


def report(error: BaseException) -> None:
    """Where a fault of ours happened: places and the kind of error, not its text, which may quote a conversation."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    print(f"hanse: {type(error).__name__} at {places}", file=sys.stderr, flush=True)


def install(app: FastAPI) -> None:
    """Have every failure below the guard answered in OpenAI's shape."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _input_error(request: Request, error: Exception) -> JSONResponse:
    return ApiError(400, str(error)).response()


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = _SENTENCES.get(error.status_code, str(error.detail))
    refusal = ApiError(error.status_code, message, code=_code(error.status_code), headers=error.headers)
    return refusal.response()


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # One finding is enough, and its `input`, which pydantic would show, may be a conversation.
    findings = error.errors()
    if findings[0]["type"] == "json_invalid":
        place, why = findings[0]["loc"][-1], findings[0]["ctx"]["error"]
        return ApiError(400, f"The body is not JSON (character {place}): {why}.", code="invalid_json").response()
    param = _param(findings[0]["loc"][1:])
    what = _told(findings)
    if not param and findings[0]["type"] != "value_error":
        what = "The body has to be a JSON object with the fields that /openapi.json describes"
    message = f"{param}: {what}" if param else what
    return ApiError(400, message.rstrip(".") + ".", param=param or None).response()


def _told(findings: Sequence[Any]) -> str:
    """What pydantic found, in a sentence; of a union, what the branch says whose type fits."""
    place = findings[0]["loc"][:2]
    of_field = [each for each in findings if each["loc"][:2] == place]
    fitting = [each for each in of_field if not each["type"].endswith("_type")]
    if not fitting and len(of_field) > 1:
        return "has none of the types that are allowed here"
    return str((fitting or of_field)[0]["msg"]).removeprefix("Value error, ")


def _param(place: tuple[Any, ...]) -> str:
    """`messages[0].role` for ("messages", 0, "role"); pydantic's names of union branches end the path."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[a-z_]+", part) and part not in ("str", "int", "float", "bool", "constrained"):
            path += f".{part}" if path else part
        else:
            break
    return path


def _code(status: int) -> str | None:
    return {404: "not_found", 405: "method_not_allowed"}.get(status)
