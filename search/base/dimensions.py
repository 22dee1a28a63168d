"""Types of search dimensions in the configuration."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Every section refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(Section):
    """A numeric search dimension."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log range needs low > 0")
        return self


def _words(value: Any) -> Any:
    """YAML reads a bare yes or no as a truth value."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


class Choices(Section):
    """A categorical search dimension."""

    choices: tuple[Annotated[float | str, BeforeValidator(_words)], ...] = Field(min_length=1)


Dimension = Annotated[float | str | Range | Choices, BeforeValidator(_words)]


def values_of(dimension: float | str | Range | Choices) -> tuple[float | str, ...]:
    """The ends of a range, the choices, or the fixed value."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    return dimension.choices if isinstance(dimension, Choices) else (dimension,)


def _numbers(low: float, high: float = math.inf) -> AfterValidator:
    def check(dimension: Any) -> Any:
        for value in values_of(dimension):
            if isinstance(value, str) or not low <= value <= high or not math.isfinite(value):
                raise ValueError(f"{value!r} is not a number from {low:g} to {high:g}")
        return dimension

    return AfterValidator(check)


def _one_of(*words: str) -> AfterValidator:
    def check(dimension: Any) -> Any:
        for value in values_of(dimension):
            if value not in words or isinstance(dimension, Range):
                raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return dimension

    return AfterValidator(check)


def _whole(low: int) -> AfterValidator:
    def check(dimension: Any) -> Any:
        for value in values_of(dimension):
            if isinstance(value, str) or isinstance(dimension, Range) or value != int(value) or value < low:
                raise ValueError(f"{value!r} is not a whole number from {low} on (give choices, not a range)")
        return dimension

    return AfterValidator(check)


Share = Annotated[Dimension, _numbers(0, 1)]


Exponent = Annotated[Dimension, _numbers(-8, 8)]


YesNo = Annotated[Dimension, _one_of("yes", "no")]
