"""Sizes of models: their names, what fits together, what they cost, and how to derive them from one dial.

Runs without torch, so that `plan` and the command line can use it. Each family has a class of its own; `ModelConfig`
is that of `deepseek_v3`, the family that is made where nothing else is said.
"""

from hanse.model.config.apertus import ApertusConfig
from hanse.model.config.deepseek_v3 import ModelConfig
from hanse.model.config.dial import NATIVE, derive, key_of_another, keys
from hanse.model.config.foreign import ForeignConfig
from hanse.model.config.opening import Config, configure, open_config

__all__ = [
    "NATIVE",
    "ApertusConfig",
    "Config",
    "ForeignConfig",
    "ModelConfig",
    "configure",
    "derive",
    "key_of_another",
    "keys",
    "open_config",
]
