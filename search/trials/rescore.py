"""Score a pruned model again, as progressive schedules need it: on fewer images, with the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medcore.data.load import ImageSet
from medcore.models.cut import prune
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.job import build_table, weights_table
from medcore.scoring.local_error import local_errors
from medcore.scoring.profile import Profile
from medcore.scoring.score_table import ScoreTable
from medcore.training.schedule import Scorer
from search.base.device import on_device
from search.base.sections.inputs import ModelConfig
from search.study.inputs import base_model, matching_base


def scorer(
    pair: ModelConfig,
    calibration: ImageSet,
    weights: ScoringWeights,
    per_dataset: int,
    seed: int,
    profile: Profile | None = None,
    *,
    dense_base: bool = False,
    local: bool = False,
) -> Scorer:
    """Return a function that scores a model with `weights`, or by the local output error.

    The general model is cut by the same masks, so that reset scores compare what both models still have. The
    second-order profile is that of the model at the start, restricted to the kept groups.

    Args:
        pair: Names the general model.
        calibration: Calibration images.
        weights: Weights of the score.
        per_dataset: Images of each data set to score on.
        seed: Draws these images.
        profile: The second-order profile of the model at the start, if the criterion reads it.
        dense_base: Whether the general model's information is taken before it is cut.
        local: Whether groups are scored by the local output error (6.11), whatever the weights say.
    """
    indices = _drawn(calibration, per_dataset, seed)
    if local:
        return lambda model, kept: local_errors(model, calibration, indices)

    def score(model: MedSam, kept: PerSite) -> PerSite:
        table = _fresh_table(pair, model, kept, calibration.subset(indices), weights, dense_base=dense_base)
        if profile is not None:
            table = replace(table, profile=profile.restricted(kept))
        return mix(table, weights, model.arch)

    return score


def _fresh_table(
    pair: ModelConfig, model: MedSam, kept: PerSite, images: ImageSet, weights: ScoringWeights, *, dense_base: bool
) -> ScoreTable:
    """Return the statistics that `weights` need, with as few passes over the images as that takes."""
    if not weights.needs & {"weight", "fisher"}:
        return weights_table(model, tuple(dict.fromkeys(images.datasets)))
    base = prune(matching_base(pair), kept).to(model.device)
    nodes, one_pass = (weights.boundary_weight,), "fisher" not in weights.needs
    if not dense_base:
        return build_table(base, model, images, nodes, one_pass=one_pass)
    with on_device(base_model(pair)) as general:
        return build_table(base, model, images, nodes, one_pass=one_pass, general=general)


def _drawn(images: ImageSet, per_dataset: int, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for dataset in dict.fromkeys(images.datasets):
        rows = [row for row, name in enumerate(images.datasets) if name == dataset]
        chosen += generator.permutation(rows)[:per_dataset].tolist()
    return sorted(chosen)
