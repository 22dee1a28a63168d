"""What a schedule does in each of its phases, and to which widths (method §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

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
    """

    stage: str
    kind: Literal["score", "cut", "refit", "recovery"]
    families: tuple[Family, ...]
    round: int
    rounds: int
    target: ModelSpec

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

    def between(number: int) -> tuple[int, ...]:
        # half up, so that the steps of all rounds add up to the whole
        pairs = zip(start.widths, final.widths, strict=True)
        return tuple(a - int(np.floor((a - b) * number / count + 0.5)) for a, b in pairs)

    if grown(start, final):
        raise ConfigError("schedule: the final budget keeps more than the model has in some block")
    return tuple(ModelSpec(final.arch, between(number)) for number in range(1, count + 1))


def grown(before: ModelSpec, after: ModelSpec) -> bool:
    """Return whether any site is wider in `after`."""
    return any(new > old for old, new in zip(before.widths, after.widths, strict=True))
