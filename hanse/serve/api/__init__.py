"""The OpenAI-compatible API over any engine, and what keeps it safe."""

from hanse.serve.api.app import create_app
from hanse.serve.api.settings import Settings

__all__ = ["Settings", "create_app"]
