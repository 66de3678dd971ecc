"""Which family a model is of, and its sizes: from a recipe's section or from a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from hanse.errors import InputError
from hanse.model.config.apertus import ApertusConfig
from hanse.model.config.deepseek_v3 import ModelConfig
from hanse.model.config.dial import NATIVE, derive
from hanse.model.config.folder import numbers_in, read_shapes, read_values
from hanse.model.config.foreign import ForeignConfig

FOREIGN = "transformers"
#: Written into a config.json of a family that we have too, but that transformers computed here.
FAMILY_KEY = "hanse_family"


class Config(Protocol):
    """What every family's sizes answer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def tie_word_embeddings(self) -> bool: ...

    def parameters(self) -> int: ...
    def active_parameters(self) -> int: ...
    def operations(self, sequence_length: int) -> dict[str, int]: ...
    def flop_per_token(self, sequence_length: int) -> int: ...
    def to_hf(self, **token_ids: int | None) -> dict[str, Any]: ...


class Section(Protocol):
    """A recipe's `[model]`."""

    @property
    def family(self) -> str | None: ...
    @property
    def size(self) -> str: ...
    @property
    def start(self) -> str | None: ...
    @property
    def overrides(self) -> dict[str, Any]: ...


def configure(section: Section, *, vocab_size: int, context: int) -> ModelConfig | ApertusConfig | ForeignConfig:
    """The sizes that a recipe's `[model]` stands for.

    Args:
        section: with `start`, the sizes are those of that folder; else they follow from `size`.
        vocab_size: tokens in the vocabulary; a folder brings its own.
        context: the longest sequence that training shows, in tokens.

    Raises:
        InputError: sizes that cannot work, a folder that cannot be read, or one whose context is shorter.
    """
    if not section.start:
        overrides = {"max_position_embeddings": context, **section.overrides}
        return derive(section.size, family=section.family or "deepseek_v3", vocab_size=vocab_size, overrides=overrides)
    config = open_config(Path(section.start), family=section.family)
    if context > config.max_position_embeddings:
        raise InputError(
            f"[model] start = {section.start}: this model sees {config.max_position_embeddings} tokens at a time, and "
            f"the recipe has sequences of {context}; set sequence_length to that or less."
        )
    return config


def open_config(folder: Path, *, family: str | None = None) -> ModelConfig | ApertusConfig | ForeignConfig:
    """Read a model folder's sizes and hold them against its weights, of which only the headers are read.

    Args:
        folder: in the Hugging Face layout.
        family: "deepseek_v3", "apertus", "transformers", or None: what `config.json` says, computed here where that
            is possible and by transformers where not.

    Raises:
        InputError: files that cannot be read, a family other than the one asked for, sizes that cannot work or are far
            from what the weights hold.
    """
    values, shapes = read_values(folder), read_shapes(folder)
    found = str(values.get("model_type"))
    if family is None:
        family = found if found in NATIVE and values.get(FAMILY_KEY) != FOREIGN else FOREIGN
    try:
        if family == FOREIGN:
            return ForeignConfig.of(values, shapes)
        if family != found:
            other = found if found in NATIVE else FOREIGN
            raise InputError(
                f'config.json: model_type is {found!r}, not {family!r}; set family = "{other}" or leave it out.'
            )
        config = NATIVE[family].from_hf(values)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    # Before anything is allocated: hostile sizes could ask for any amount of memory.
    if config.parameters() > 10 * numbers_in(shapes) + 1000:
        raise InputError(
            f"{folder}: config.json promises {config.parameters():,} parameters, but the weights hold "
            f"{numbers_in(shapes):,}; these two do not belong together."
        )
    return config
