"""A recipe: what to make, as typed TOML. Where it runs is decided in `runtime.py`, never here.

Every key that is not known is an error with a suggestion; every default is printed by `hanse run --dry-run`.
"""

from hanse.recipe.data import CURATE_PATHS, Curate, Source
from hanse.recipe.reading import embedded, load, parse
from hanse.recipe.sections import (
    HOW,
    Evaluate,
    Memorisation,
    Model,
    Pretrain,
    Recipe,
    Release,
    Stage,
    Tokenizer,
    Training,
    Tune,
)

__all__ = [
    "CURATE_PATHS",
    "HOW",
    "Curate",
    "Evaluate",
    "Memorisation",
    "Model",
    "Pretrain",
    "Recipe",
    "Release",
    "Source",
    "Stage",
    "Tokenizer",
    "Training",
    "Tune",
    "embedded",
    "load",
    "parse",
]
