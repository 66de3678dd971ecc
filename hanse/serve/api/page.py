"""The static page and the record of the model, beside the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

INDEX = "index.html"


def routes(folder: Path) -> list[Route]:
    """A route for each file that is in the folder now. No other path of a request ever becomes a path of the disk."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    names = [path.relative_to(folder).as_posix() for path in files]
    shown = [name for name in names if not any(part.startswith((".", "__")) for part in name.split("/"))]
    static = StaticFiles(directory=folder, check_dir=False)
    found = [Route(f"/{name}", _file(static, name), methods=["GET"], include_in_schema=False) for name in shown]
    if INDEX in shown:
        found.append(Route("/", _file(static, INDEX), methods=["GET"], include_in_schema=False))
    return found


def _file(static: StaticFiles, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await static.get_response(name, request.scope)

    return answer


class Record:
    """What the model is made of, read from its release once, when the first one asks."""

    def __init__(self, release: Path | None) -> None:
        self._release = release
        self._lock = asyncio.Lock()
        self._found: dict[str, Any] | None = None

    async def read(self) -> dict[str, Any]:
        """See `hanse.serve.record.record`."""
        async with self._lock:
            if self._found is None:
                from hanse.serve.record import record  # pulls in the tables of the release

                self._found = await asyncio.to_thread(record, self._release)
        return self._found
