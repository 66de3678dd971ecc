"""Where the words of an answer stand in the training texts, if the store behind the model has their index.

The index is the one that `hanse trace` makes; a server makes none, and looks through no part of the texts alone.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from hanse.serve.api.errors import ApiError
from hanse.serve.api.responses import refusals
from hanse.serve.api.schema import Text

if TYPE_CHECKING:
    from hanse.trace.index import Index

#: A longer text keeps the server busy for too long.
LONGEST_CHARACTERS = 32_768
PASSAGES = 8


class Asked(BaseModel):
    """A text, such as an answer."""

    text: Annotated[Text, Field(min_length=1, max_length=LONGEST_CHARACTERS)]


class Origins:
    """The indexes behind a model, opened when the first one asks."""

    def __init__(self, release: Path | None) -> None:
        self._release = release
        self._lock = asyncio.Lock()
        self._indexes: list[Index] = []

    async def find(self, text: str) -> dict[str, Any]:
        """The longest passages of a text with their documents: see `hanse.trace.printed.as_dict`.

        Raises:
            ApiError: there is no index.
        """
        async with self._lock:  # one at a time: halving through an index is work for a whole core
            if not self._indexes:
                from hanse.trace.index import beside

                self._indexes = await asyncio.to_thread(beside, self._release)
            if not self._indexes:
                raise ApiError(
                    404, "This server has no index of the training texts; `hanse trace` makes one.", code="no_index"
                )
            return await asyncio.to_thread(_find, self._indexes, text)


def _find(indexes: list[Index], text: str) -> dict[str, Any]:
    from hanse.trace import printed, search

    traced = search.trace(indexes, text, limit=PASSAGES, trim=True)
    return printed.as_dict(traced, indexes, what="", min_bytes=search.MIN_BYTES)


def add(app: FastAPI, release: Path | None) -> None:
    """Let the application answer `POST /trace`."""
    origins = Origins(release)

    @app.post("/trace", responses=refusals(400, 404, 408, 413))
    async def trace_text(body: Asked) -> dict[str, Any]:
        """Which passages of a text stand word for word in the training texts, and in which documents."""
        return await origins.find(body.text)
