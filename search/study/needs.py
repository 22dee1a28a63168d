"""Which statistics a study needs, so that it computes no others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medcore.scoring.criteria import ScoringWeights
from search.base.sections.space import CURVES
from search.study.inputs import TrialSettings


@dataclass(frozen=True)
class Needs:
    """Statistics that the trials of a study read.

    Attributes:
        fisher: Fisher information, which takes two backward passes an image through both models.
        profile: The second-order profile of the adapted model.
    """

    fisher: bool
    profile: bool


#: All statistics.
ALL = Needs(fisher=True, profile=True)


def needs_of(settings: TrialSettings) -> Needs:
    """Return which statistics the trials of a study read."""
    space, starts = settings.search.space, settings.search.warm_starts
    found = set(settings.scoring.weights().needs)
    for criterion in space.criterion.values:
        for blend in _ends(space.blend.values):
            found |= ScoringWeights(criterion=str(criterion), blend=blend).needs
    follows = any(dimension.values != (0.0,) for dimension in space.follow.values())
    return Needs(
        fisher=bool(found & {"weight", "fisher"}) or follows or bool(starts.rule),
        profile="profile" in found or CURVES in space.shape.values,
    )


def _ends(blends: Iterable[object]) -> list[float]:
    """Return blends that stand for all values of a dimension; a range between its ends mixes both criteria."""
    values = sorted(float(str(value)) for value in blends)
    return values if len(values) == 1 else [*values, (values[0] + values[-1]) / 2]
