"""Tensors of a model folder, read one at a time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from hanse.errors import InputError
from hanse.model.config.folder import weight_files

_READABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Weights:
    """The safetensors files of a folder, open. Nothing is in memory but what was read last."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError for a file that is missing or no safetensors file."""
        self._folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        try:
            for path in weight_files(folder):
                opened = self._stack.enter_context(safe_open(path, framework="pt"))
                self._files |= dict.fromkeys(opened.keys(), opened)
        except (OSError, SafetensorError) as error:
            self._stack.close()
            raise InputError(f"{folder}: weights cannot be read ({error}); copy the model folder again.") from error

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, name: str) -> np.ndarray | None:
        """A tensor as float32, or None if there is none of that name.

        Raises:
            InputError: numbers of a kind that cannot be read, infinite ones, or ones that are none.
        """
        if name not in self._files:
            return None
        try:
            tensor = self._files[name].get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"{self._folder}: {name} cannot be read ({error}); copy the folder again.") from error
        if tensor.dtype not in _READABLE:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{self._folder}: {name} holds {kind}; only plain floating-point weights can be written.")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{self._folder}: {name} holds numbers that are infinite or none; the model is broken.")
        return tensor.float().numpy()
