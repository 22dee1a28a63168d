"""Score a pruned model again, as progressive schedules need it: on fewer images, with the same weights."""

from __future__ import annotations

import numpy as np

from medcore.data.load import ImageSet
from medcore.models.cut import prune
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.job import build_table
from medcore.training.schedule import Scorer
from search.base.sections.inputs import ModelConfig
from search.study.inputs import base_model


def scorer(pair: ModelConfig, calibration: ImageSet, weights: ScoringWeights, per_dataset: int, seed: int) -> Scorer:
    """Return a function that scores a model with `weights`.

    The general model is cut by the same masks, so that reset scores compare what both models still have.

    Args:
        pair: Names the general model.
        calibration: Calibration images.
        weights: Weights of the score.
        per_dataset: Images of each data set to score on.
        seed: Draws these images.
    """
    indices = _drawn(calibration, per_dataset, seed)

    def score(model: MedSam, kept: PerSite) -> PerSite:
        base = prune(base_model(pair), kept).to(model.device)
        table = build_table(base, model, calibration.subset(indices), nodes=(weights.boundary_weight,))
        return mix(table, weights, model.arch)

    return score


def _drawn(images: ImageSet, per_dataset: int, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for dataset in dict.fromkeys(images.datasets):
        rows = [row for row, name in enumerate(images.datasets) if name == dataset]
        chosen += generator.permutation(rows)[:per_dataset].tolist()
    return sorted(chosen)
