"""What a schedule does in each of its phases, and to which widths (method §6)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal

from medcore.errors import ConfigError
from medcore.models.sites import Family
from medcore.models.spec import ModelSpec


@dataclass(frozen=True)
class Phase:
    """One phase of a schedule.

    Attributes:
        stage: its name within a round.
        kind: what it does.
        families: families that it cuts, or whose cut it follows.
        round: number of its round, from 0.
        rounds: number of rounds.
        target: widths to reach in this round.
        span: begin and end of the phase's share of the recovery steps; None for equal shares of all rounds.
    """

    stage: str
    kind: Literal["score", "cut", "refit", "recovery", "round"]
    families: tuple[Family, ...]
    round: int
    rounds: int
    target: ModelSpec
    span: tuple[Fraction, Fraction] | None = None

    @property
    def is_last_round(self) -> bool:
        """Return whether no round follows."""
        return self.round == self.rounds - 1

    def steps_of(self, total: int) -> int:
        """Return how many of the recovery's steps the phase takes.

        Phases whose spans cover the whole take all steps together.
        """
        begin, end = self.span or (Fraction(self.round, self.rounds), Fraction(self.round + 1, self.rounds))
        return floor(total * end) - floor(total * begin)

    @property
    def name(self) -> str:
        """Return the name: `mlp`, or `r2/mlp` where there are several rounds."""
        return self.stage if self.rounds == 1 else f"r{self.round + 1}/{self.stage}"

    @property
    def is_recovery(self) -> bool:
        """Return whether the phase trains the model."""
        return self.kind == "recovery"


def rounds_to(start: ModelSpec, final: ModelSpec, count: int) -> tuple[ModelSpec, ...]:
    """Return the targets of `count` rounds with equal steps at every site (6.3).

    Args:
        start: widths before the first round.
        final: widths after the last round.
        count: number of rounds.

    Raises:
        MedcoreError: a site would grow.
    """
    if grown(start, final):
        raise ConfigError("schedule: the final budget keeps more than the model has in some block")
    return tuple(on_the_way(start, final, Fraction(number, count)) for number in range(1, count + 1))


def on_the_way(start: ModelSpec, final: ModelSpec, share: Fraction) -> ModelSpec:
    """Return the widths after a share of the way from `start` to `final` (6.3).

    Halves are rounded up, so that the steps of all rounds add up to the whole.
    """
    pairs = zip(start.widths, final.widths, strict=True)
    return ModelSpec(final.arch, tuple(a - floor((a - b) * share + Fraction(1, 2)) for a, b in pairs))


def grown(before: ModelSpec, after: ModelSpec) -> bool:
    """Return whether any site is wider in `after`."""
    return any(new > old for old, new in zip(before.widths, after.widths, strict=True))
