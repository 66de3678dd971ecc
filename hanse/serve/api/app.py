"""The application: routes, what they share, and the guard around them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hanse import __version__
from hanse.serve.api import chat, completions, errors, origins, page
from hanse.serve.api.answers import Service
from hanse.serve.api.guard import Guard
from hanse.serve.api.limits import Places, Quotas
from hanse.serve.api.metrics import Metrics
from hanse.serve.api.responses import ChatCompletion, Completion, Health, ModelList, refusals
from hanse.serve.api.responses import Model as ModelBody
from hanse.serve.api.schema import ChatRequest, CompletionRequest
from hanse.serve.api.settings import Settings
from hanse.serve.request import Backend

_EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {"description": "JSON in each event; [DONE] at the end."}}}
_ASKED = (400, 404, 408, 413, 415, 429, 503, 504)


def create_app(backend: Backend, *, model: str, release: Path | None, settings: Settings) -> FastAPI:
    """An application that answers for one model. It owns the engine: at its end it closes it.

    Args:
        backend: the engine.
        model: the name under which clients ask for the model.
        release: the folder that is served, for `/record`; None when nothing is known about it.
        settings: what is allowed.
    """
    service = Service(
        backend, model, settings, Places(settings.queue), Quotas(), created=int(time.time())
    )  # fmt: skip
    withdrawn = settings.withdrawn
    metrics = Metrics(
        backend.stats, lambda: service.places.taken, ended=lambda: withdrawn.ended if withdrawn is not None else 0
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await backend.close()

    app = FastAPI(
        title="Hanse",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    pages = page.routes(settings.page)
    _add_api(app, service)
    _add_beside(app, metrics, page.Record(release))
    origins.add(app, release)
    app.router.routes.extend(pages)
    errors.install(app)
    app.add_middleware(
        Guard, settings=settings, quotas=service.quotas, metrics=metrics, pages=[each.path for each in pages]
    )
    _describe(app)
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    described = {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "hanse",
        "max_model_len": service.backend.context,
    }

    @app.get("/v1/models", response_model=ModelList, responses=refusals())
    async def list_models() -> Response:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": [described]})

    @app.get("/v1/models/{model:path}", response_model=ModelBody, responses=refusals(404))
    async def retrieve_model(model: str) -> Response:
        """The model that is served, by its name."""
        service.check_model(model)
        return JSONResponse(described)

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={200: {"content": _EVENTS}, **refusals(*_ASKED)},
    )
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation; with `stream`, as server-sent events."""
        return await chat.complete(service, body, request)

    @app.post(
        "/v1/completions",
        response_model=Completion,
        responses={200: {"content": _EVENTS}, **refusals(*_ASKED)},
    )
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Go on with texts; with `stream`, as server-sent events."""
        return await completions.complete(service, body, request)


def _add_beside(app: FastAPI, metrics: Metrics, record: page.Record) -> None:
    @app.get("/health", response_model=Health, responses=refusals())
    async def health() -> Response:
        """Whether the server is up."""
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **refusals()}, response_class=Response)
    async def read_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/record", responses=refusals())
    async def read_record() -> dict[str, Any]:
        """What the model is made of."""
        return await record.read()


def _describe(app: FastAPI) -> None:
    """Leave out of `/openapi.json` the status 422, which FastAPI takes for granted and this server never gives."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for operations in made["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            schemas = made.get("components", {}).get("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
