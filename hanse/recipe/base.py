"""What every section of a recipe is, and the kinds of values that several of them hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Temperature = Annotated[float, Field(ge=1.0, le=100.0)]  # a language's share grows with its size ^ (1 / temperature)
Weight = Annotated[float, Field(ge=0.0, le=1e6)]


class Section(BaseModel):
    """A part of the recipe: frozen, and closed against unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
