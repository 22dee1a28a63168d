"""Fresh scores for a pruned model, as progressive schedules want them: on fewer images, with the same weights."""

from __future__ import annotations

import numpy as np

from medcore.data.load import ImageSet
from medcore.models.groups import PerGroup
from medcore.models.prune import prune
from medcore.models.sam import MedSam
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.job import build_table
from medcore.training.schedule import Scorer
from search.base.config import Config
from search.study.inputs import base_model


def scorer(config: Config, calibration: ImageSet, weights: ScoringWeights, per_dataset: int, seed: int) -> Scorer:
    """Scores a model with `weights` on `per_dataset` calibration images of each data set, drawn by `seed`.

    The general model is cut by the same masks, so that reset scores compare what both still have.
    """
    indices = _drawn(calibration, per_dataset, seed)

    def score(model: MedSam, kept: PerGroup) -> PerGroup:
        base = prune(base_model(config), kept).to(model.device)
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
