"""What a search dimension may be in the configuration: a range, choices, or a fixed value.

    lr: {low: 1e-5, high: 1e-3, log: true}      a range
    rounds: {choices: [1, 2, 3]}                choices
    tau: 0.25                                   a fixed value

Every dimension of the space says which values it takes by one of the checks `numbers`, `whole`, `one_of` and
`TRUTH_VALUES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Discriminator, Field, RootModel, Tag, model_validator

from results.stats.old_words import truth_value
from search.base.sections.fields import Section

Value = bool | int | float | str
Convert = Callable[[Value], Value]


class Draws(Protocol):
    """The part of `optuna.Trial` that draws values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Draw a number of a range."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of the choices."""


class Range(Section):
    """Any number from `low` to `high`."""

    low: float
    high: float
    log: bool = Field(False, description="draw the logarithm evenly")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log range needs low > 0")
        return self

    @property
    def values(self) -> tuple[Value, ...]:
        """The two ends."""
        return self.low, self.high

    def draw(self, trial: Draws, name: str) -> Value:
        """Return the value of the parameter `name` in this trial."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def nearest(self, value: Value) -> Value:
        """Return the value of the range that is closest to a number."""
        return min(max(float(value), self.low), self.high)

    def converted(self, convert: Convert, discrete: bool) -> Range:
        """Return this range if its ends are valid and the dimension is not discrete."""
        for end in self.values:
            convert(end)
        if discrete:
            raise ValueError("give choices, not a range")
        return self


class Choices(Section):
    """One of some values."""

    choices: tuple[Value, ...] = Field(min_length=1)

    @property
    def values(self) -> tuple[Value, ...]:
        """The choices."""
        return self.choices

    def draw(self, trial: Draws, name: str) -> Value:
        """Return the value of the parameter `name` in this trial."""
        drawn: Value = trial.suggest_categorical(name, self.choices)
        return drawn

    def nearest(self, value: Value) -> Value:
        """Return the equal choice, else the closest number, else the first choice."""
        for choice in self.choices:
            if choice == value:
                return choice
        numbers = [
            choice for choice in self.choices if isinstance(choice, (int, float)) and not isinstance(choice, bool)
        ]
        return min(numbers, key=lambda choice: abs(choice - float(value))) if numbers else self.choices[0]

    def converted(self, convert: Convert, discrete: bool) -> Choices:
        """Return the same choices as values of the dimension's type."""
        return Choices(choices=tuple(map(convert, self.choices)))


class Fixed(RootModel[Value], frozen=True):
    """A fixed value, which is not sampled."""

    @property
    def values(self) -> tuple[Value, ...]:
        """The value."""
        return (self.root,)

    def draw(self, trial: Draws, name: str) -> Value:
        """Return the value."""
        return self.root

    def nearest(self, value: Value) -> Value:
        """Return the value."""
        return self.root

    def converted(self, convert: Convert, discrete: bool) -> Fixed:
        """Return the same value in the dimension's type."""
        return Fixed(convert(self.root))


def _kind(given: Any) -> str | None:
    if isinstance(given, (Range, Choices, Fixed)):
        return f"<{type(given).__name__}>"
    if isinstance(given, Mapping):
        return "<Choices>" if "choices" in given else "<Range>"
    return "<Fixed>" if isinstance(given, (bool, int, float, str)) else None


#: The tags are no keys of the file, so `search.base.config` leaves them out of its messages.
Dimension = Annotated[
    Annotated[Range, Tag("<Range>")] | Annotated[Choices, Tag("<Choices>")] | Annotated[Fixed, Tag("<Fixed>")],
    Discriminator(
        _kind,
        custom_error_type="dimension",
        custom_error_message="give a value, a range with low and high, or choices",
    ),
]


def numbers(low: float, high: float = math.inf) -> AfterValidator:
    """Return a check that a dimension holds finite numbers from `low` to `high`."""

    def convert(value: Value) -> Value:
        if isinstance(value, (bool, str)) or not low <= value <= high or not math.isfinite(value):
            raise ValueError(f"{value!r} is not a number from {low:g} to {high:g}")
        return float(value)

    return _each(convert)


def whole(low: int) -> AfterValidator:
    """Return a check that a dimension holds whole numbers from `low` on."""

    def convert(value: Value) -> Value:
        if isinstance(value, (bool, str)) or not math.isfinite(value) or value != int(value) or value < low:
            raise ValueError(f"{value!r} is not a whole number from {low} on")
        return int(value)

    return _each(convert, discrete=True)


def one_of(known: Iterable[str] | Callable[[], Iterable[str]]) -> AfterValidator:
    """Return a check that a dimension holds some of the `known` names.

    It does for dimensions what `sections.fields.choice` does for values.
    """

    def convert(value: Value) -> Value:
        if value not in (names := tuple(known() if callable(known) else known)):
            raise ValueError(f"{value!r} is not one of {', '.join(names)}")
        return value

    return _each(convert, discrete=True)


def _truth(value: Value) -> Value:
    if not isinstance(value := truth_value(value), bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def _each(convert: Convert, discrete: bool = False) -> AfterValidator:
    """Return a validator that converts every value of a dimension."""

    def check(dimension: Range | Choices | Fixed) -> Range | Choices | Fixed:
        return dimension.converted(convert, discrete)

    return AfterValidator(check)


#: Check that a dimension holds true, false or both.
TRUTH_VALUES = _each(_truth, discrete=True)
