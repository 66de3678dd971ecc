"""Reading a model folder's `config.json` and the headers of its weights, without torch and without a single number.

Everything in such a folder was written by somebody else: sizes, names and shapes are checked before they are believed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanse.errors import InputError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
#: The safetensors format allows no larger header.
LARGEST_HEADER_BYTES = 100_000_000

Shapes = Mapping[str, tuple[int, ...]]


def read_values(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`. Raises InputError where there is none that can be read."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a model folder needs its config.json.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: is no JSON object; a model folder needs its config.json.")
    return values


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or those that the index names.

    Raises:
        InputError: there are none, or the index cannot be read or names a file outside the folder.
    """
    index = folder / INDEX
    if not index.is_file():
        if (folder / WEIGHTS).is_file():
            return [folder / WEIGHTS]
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for path in folder.glob(pattern))
        hint = f" {others[0]} is not read, since such files can run code; convert it." if others else ""
        raise InputError(f"{folder}: weights cannot be read ({WEIGHTS} is missing).{hint}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{index}: cannot be read ({error}); copy the model folder again.") from error
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name) or name.startswith("."):
            raise InputError(f"{index}: names {str(name)[:80]!r}, which is no safetensors file beside it.")
    return [folder / name for name in names]


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a model folder, from the headers of its files.

    Raises:
        InputError: a file that is missing, or no safetensors file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if not 0 < length <= LARGEST_HEADER_BYTES:
                    raise ValueError("its header has an impossible length")
                header = json.loads(stream.read(length))
            shapes |= {name: tuple(map(int, each["shape"])) for name, each in header.items() if name != "__metadata__"}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: weights cannot be read ({error}); copy the model folder again.") from error
    return shapes


def numbers_in(shapes: Shapes) -> int:
    """How many numbers the tensors hold together."""
    return sum(math.prod(shape) for shape in shapes.values())
