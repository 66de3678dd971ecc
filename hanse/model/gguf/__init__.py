"""GGUF files: a model folder as llama.cpp, and the programs built on it, read a model. Needs the `gguf` package."""

from hanse.model.gguf.quantise import KINDS, Kind
from hanse.model.gguf.vocabulary import Vocabulary
from hanse.model.gguf.writing import Facts, Written, open_native, write

__all__ = ["KINDS", "Facts", "Kind", "Vocabulary", "Written", "open_native", "write"]
