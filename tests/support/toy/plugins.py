"""A criterion, an allocator, a sampler and a metric of a user's own: a few lines each, named in MEDCORE_PLUGINS."""

from __future__ import annotations

import numpy as np
from optuna.samplers import RandomSampler

from medcore.budgets.allocators import ALLOCATORS, Request
from medcore.budgets.targets import uniform_to_target
from medcore.models.spec import ModelSpec
from medcore.quality.figures import Metric, add
from medcore.quality.metrics import MaskPair
from medcore.scoring.criteria import CRITERIA, Floats, ScoringWeights
from medcore.scoring.score_table import ScoreTable
from search.base.samplers import SAMPLERS, Sampler


@CRITERIA.register("toy_order")
def toy_order(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Keep the groups of low number."""
    scores = table.array("magnitude", family)
    return np.broadcast_to(-np.arange(scores.shape[1], dtype=float), scores.shape)


@ALLOCATORS.register("toy_half")
def toy_half(request: Request) -> ModelSpec:
    """Keep half of the cost for every request."""
    return uniform_to_target(request.arch, 0.5, request.metric)


SAMPLERS.register("toy_random")(Sampler(lambda settings, seed, trials: RandomSampler(seed + 1)))


def same_area(pair: MaskPair) -> float:
    """Smaller area over larger area; 1 if both masks are empty."""
    areas = sorted((pair.pred.sum(), pair.truth.sum()))
    return float(areas[0] / areas[1]) if areas[1] else 1.0


add(Metric("toy_area", "Toy area", function=same_area))
