"""How the numbers of a GGUF file are packed, and which tensors keep more of them.

The `gguf` package packs all but the K types, in numpy. Those need llama.cpp itself, whose quantiser is in the library
of the `xllamacpp` wheel.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quants

from hanse.errors import InputError
from hanse.model.gguf.layout import Entry

Kind = Literal["f32", "bf16", "q8_0", "q4_k", "q5_k", "q6_k"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: What a file says that it mostly holds.
FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_k": LlamaFileType.MOSTLY_Q4_K_S,
    "q5_k": LlamaFileType.MOSTLY_Q5_K_S,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
}
_FLOAT32, _Q8, _Q6 = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q6_K
_MAIN = {
    "f32": _FLOAT32,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": _Q8,
    "q4_k": GGMLQuantizationType.Q4_K,
    "q5_k": GGMLQuantizationType.Q5_K,
    "q6_k": _Q6,
}
_K_TYPES = (GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q5_K, _Q6)
#: Numbers that are packed at once: 256 MB of float32.
_AT_ONCE = 2**26


def packing(entry: Entry, kind: Kind) -> GGMLQuantizationType:
    """The type of a tensor in a file of this kind.

    Norms, the router and its bias stay float32. In the K kinds the embedding and the head get 6 bits, as llama.cpp does
    for the head, and what leads out of the latent space 8, for its rows are narrower than the 256 numbers of a K block.

    Raises:
        InputError: rows that are no multiple of what the type packs together.
    """
    if entry.role == "exact":
        return _FLOAT32
    packed = _MAIN[kind]
    if packed in _K_TYPES:
        packed = {"table": _Q6, "latent": _Q8}.get(entry.role, packed)
    block, _ = GGML_QUANT_SIZES[packed]
    width = entry.shape[-1]
    if width % block:
        wider = "q8_0, bf16 or f32" if packed in _K_TYPES else "bf16 or f32"
        raise InputError(
            f"{entry.name} has rows of {width} numbers, but {packed.name} packs {block} at a time, so this model "
            f"cannot be written as {kind}; use {wider}."
        )
    return packed


def size_of(entry: Entry, packed: GGMLQuantizationType) -> int:
    """Bytes of a tensor in the file."""
    block, size = GGML_QUANT_SIZES[packed]
    return int(np.prod(entry.shape, dtype=np.int64)) // block * size


def pack(rows: np.ndarray, packed: GGMLQuantizationType) -> np.ndarray:
    """The bytes of a float32 array in the file, its last axis packed. Returns uint8, or float32 for itself."""
    rows = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, rows.shape[-1])
    if packed == _FLOAT32:
        return rows
    if packed not in _K_TYPES:
        return quants.quantize(rows, packed).view(np.uint8)
    quantise = llama_quantiser()
    step = max(1, _AT_ONCE // rows.shape[1])
    return np.concatenate([quantise(rows[start : start + step], packed) for start in range(0, len(rows), step)])


@lru_cache(maxsize=1)
def llama_quantiser() -> Callable[[np.ndarray, GGMLQuantizationType], np.ndarray]:
    """llama.cpp's own quantiser for the K types: contiguous float32 rows to bytes.

    Raises:
        InputError: the wheel is not installed, or its library does not show the function.
    """
    try:
        library = ctypes.CDLL(str(importlib.import_module("xllamacpp.xllamacpp").__file__))
        function = library.ggml_quantize_chunk
    except ImportError as error:
        raise InputError(
            "K types are packed by llama.cpp, which is not installed: pip install 'hanse[llama-cpp]', or use q8_0."
        ) from error
    except (OSError, AttributeError) as error:
        raise InputError(
            f"K types are packed by llama.cpp, but this build of xllamacpp does not offer it ({error}); use q8_0."
        ) from error
    # size_t ggml_quantize_chunk(type, const float * src, void * dst, start, rows, row width, const float * importance)
    function.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    function.restype = ctypes.c_size_t

    def quantise(rows: np.ndarray, packed: GGMLQuantizationType) -> np.ndarray:
        block, size = GGML_QUANT_SIZES[packed]
        out = np.empty((len(rows), rows.shape[1] // block * size), dtype=np.uint8)
        written = function(int(packed), rows.ctypes.data, out.ctypes.data, 0, len(rows), rows.shape[1], None)
        if written != out.nbytes:
            raise RuntimeError(f"llama.cpp wrote {written} bytes where {out.nbytes} belong")
        return out

    return quantise
