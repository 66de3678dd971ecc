"""The model folder that a recipe goes on from, as identity: what it holds, not where it lies. Torch-free."""

from __future__ import annotations

from pathlib import Path

from hanse.model.config.folder import weight_files
from hanse.store.digest import sha256_file


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make a model folder what it is: sizes, weights, tokenizer; by name."""
    named = [*weight_files(folder), folder / "config.json", folder / "tokenizer.json"]
    return {path.name: sha256_file(path) for path in named if path.is_file()}
