"""Writing a GGUF file: the header first, then one tensor after the other, so that memory holds no more than one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFWriter

from hanse.errors import InputError
from hanse.model.config import ApertusConfig, ForeignConfig, ModelConfig, open_config
from hanse.model.config.folder import read_shapes
from hanse.model.gguf import layout
from hanse.model.gguf.layout import Entry
from hanse.model.gguf.quantise import FILE_TYPES, KINDS, Kind, llama_quantiser, pack, packing, size_of
from hanse.model.gguf.vocabulary import Vocabulary
from hanse.model.gguf.weights import Weights

Progress = Callable[[str, int, int | None], None]
#: The header beside the vocabulary.
_HEADER_BYTES = 2**16
_QUANTISATION_VERSION = 2


@dataclass(frozen=True)
class Facts:
    """What a file says of the model beside its sizes.

    Attributes:
        name: a person's name for it.
        licence: as SPDX.
        languages: ISO 639 codes.
        further: more keys and their texts, such as the release's digest.
    """

    name: str = ""
    licence: str = ""
    languages: tuple[str, ...] = ()
    further: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        bytes: its size.
        tensors: how many are in it.
        left_out: whether the folder has a multi-token block, which llama.cpp does not compute.
    """

    bytes: int
    tensors: int
    left_out: bool


def write(
    folder: Path,
    out: Path,
    *,
    vocabulary: Vocabulary,
    kind: Kind = "f32",
    facts: Facts | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write a model folder of ours as a GGUF file.

    Args:
        folder: a `deepseek_v3` or `apertus` model in the Hugging Face layout.
        out: the file; the caller gives it a temporary name and moves it. It is there, and incomplete, after an error.
        vocabulary: of the model, one token for every row of its embedding.
        kind: how numbers are packed, see `quantise.packing`.
        facts: for the header.
        progress: called with a phrase, the bytes done, and their total.

    Raises:
        InputError: a folder that cannot be read or written so, with the tensor or key that is in the way; no room.
    """
    if kind not in KINDS:
        raise InputError(f"--type {kind}: unknown; use one of {', '.join(KINDS)}.")
    config = open_native(folder)
    try:
        found, left_out = layout.check(layout.entries(config), read_shapes(folder), config)
        types = [packing(entry, kind) for entry in found]
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if kind in ("q4_k", "q5_k", "q6_k"):
        llama_quantiser()  # refused before an hour of writing, not after
    if len(vocabulary.tokens) != config.vocab_size:
        raise ValueError(f"{len(vocabulary.tokens)} tokens, but the embedding has {config.vocab_size} rows")
    _check_room(out, vocabulary, found, types)
    with Weights(folder) as weights:
        writer = GGUFWriter(out, layout.architecture(config))
        try:
            _describe(writer, config, weights, folder=folder, kind=kind, facts=facts or Facts())
            _add_vocabulary(writer, vocabulary)
            for entry, packed in zip(found, types, strict=True):
                writer.add_tensor_info(
                    entry.name, entry.shape, np.dtype(np.float32), size_of(entry, packed), raw_dtype=packed
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            assert writer.fout is not None
            _write_tensors(writer.fout[0], weights, found, types, progress or (lambda phrase, done, total: None))
        finally:
            writer.close()
    return Written(out.stat().st_size, len(found), left_out)


def open_native(folder: Path) -> ModelConfig | ApertusConfig:
    """The sizes of a folder, if it is of a family that can be written. Raises InputError where it is not."""
    config = open_config(folder)
    if isinstance(config, ForeignConfig):
        raise InputError(
            f"{folder}: is a {config.model_type} model that transformers computes; only deepseek_v3 and apertus can be "
            "written here. llama.cpp's own convert_hf_to_gguf.py knows many other families."
        )
    return config


def _check_room(out: Path, vocabulary: Vocabulary, found: list[Entry], types: list[GGMLQuantizationType]) -> None:
    """Refuse a file for which there is no room, before writing most of it."""
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written to ({error.strerror}).") from error
    texts = sum(len(text.encode()) + 12 for text in (*vocabulary.tokens, *vocabulary.merges))
    tensors = sum(_padded(size_of(entry, packed)) for entry, packed in zip(found, types, strict=True))
    needed = texts + tensors + _HEADER_BYTES
    if needed > free:
        raise InputError(
            f"{out.parent}: no room for {out.name.lstrip('.')}, which needs {needed / 1e6:,.0f} MB where "
            f"{free / 1e6:,.0f} MB are free; make room or write it elsewhere."
        )


def _describe(
    writer: GGUFWriter,
    config: ModelConfig | ApertusConfig,
    weights: Weights,
    *,
    folder: Path,
    kind: Kind,
    facts: Facts,
) -> None:
    """The header, but for the vocabulary."""
    writer.add_type("model")
    writer.add_name(facts.name or folder.resolve().name)
    if facts.licence:
        writer.add_license(facts.licence)
    if facts.languages:
        writer.add_languages(list(facts.languages))
    for key, text in facts.further.items():
        writer.add_string(key, text)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(_QUANTISATION_VERSION)
    try:
        fields = layout.fields(config, weights.read)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    for key, value in fields.items():
        _add(writer, key, value)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    # llama.cpp refuses a vocabulary without merges; pieces of two letters never arise where nothing merges.
    writer.add_token_merges(vocabulary.merges or ("aa aa",))
    # Without these, the Llama 3 split makes llama.cpp put its first token before every text.
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _write_tensors(
    stream: BinaryIO, weights: Weights, found: list[Entry], types: list[GGMLQuantizationType], progress: Progress
) -> None:
    """The numbers, each tensor at a multiple of the alignment."""
    total = sum(size_of(entry, packed) for entry, packed in zip(found, types, strict=True))
    done = 0
    _pad(stream)
    for entry, packed in zip(found, types, strict=True):
        size = 0
        for source in entry.sources or ("",):
            numbers = entry.constant if entry.constant is not None else weights.read(source)
            assert numbers is not None  # layout.check has seen it
            data = pack(entry.prepare(numbers) if entry.prepare else numbers, packed)
            stream.write(data.data)
            size += data.nbytes
            done += data.nbytes
            progress("writing the GGUF file", done, total)
        if size != size_of(entry, packed):
            raise RuntimeError(f"{entry.name} took {size} bytes where {size_of(entry, packed)} belong")
        _pad(stream)
    stream.flush()


def _pad(stream: BinaryIO) -> None:
    stream.write(bytes(_padded(stream.tell()) - stream.tell()))


def _padded(size: int) -> int:
    return -(-size // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT
