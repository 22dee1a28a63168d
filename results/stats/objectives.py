"""What is optimised: a column of the trial table and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from medcore.errors import MedcoreError

#: Words of earlier study files.
_OLD = {"minimize": "min", "down": "min", "maximize": "max", "up": "max"}


class Direction(StrEnum):
    """Which way an objective should go."""

    MIN = "min"
    MAX = "max"

    @classmethod
    def read(cls, word: str) -> Self:
        """Return the direction of a word in a file.

        Raises:
            MedcoreError: The word is unknown.
        """
        try:
            return cls(_OLD.get(word, word))
        except ValueError:
            raise MedcoreError(f"unknown direction '{word}' of an objective: use min or max") from None


@dataclass(frozen=True)
class Objective:
    """A column of the trial table and its direction.

    Words of earlier study files are accepted.
    """

    name: str
    direction: Direction
    #: In a configuration, other keys are mistakes.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads a plain dictionary

    def __post_init__(self) -> None:
        """Turn a word into a direction."""
        object.__setattr__(self, "direction", Direction.read(self.direction))

    @property
    def lower_is_better(self) -> bool:
        """Whether the objective should go down."""
        return self.direction is Direction.MIN

    @property
    def optuna_direction(self) -> Literal["minimize", "maximize"]:
        """The direction in Optuna's words."""
        return "minimize" if self.lower_is_better else "maximize"

    @property
    def sign(self) -> float:
        """Factor that turns a value into a loss: +1 if less is better, else −1."""
        return 1.0 if self.lower_is_better else -1.0

    def better(self, this: float, other: float) -> bool:
        """Return whether `this` is strictly better than `other`."""
        return this < other if self.lower_is_better else this > other


def names_of(objectives: Sequence[Objective]) -> list[str]:
    """Return the columns of the objectives in their order."""
    return [objective.name for objective in objectives]


def read_objectives(records: Any) -> tuple[Objective, ...]:
    """Return objectives from plain values, each a mapping with `name` and `direction`.

    Raises:
        MedcoreError: A direction is unknown.
        KeyError, TypeError: The values have another shape.
    """
    return tuple(Objective(str(record["name"]), record["direction"]) for record in records)
