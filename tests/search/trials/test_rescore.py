"""Fresh scores of a pruned model: by one backward pass, by none, or from the dense model's profile."""

from __future__ import annotations

import numpy as np
import pytest

from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.models.cut import prune
from medcore.models.sites import PerSite
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.job import build_table
from medcore.scoring.profile import Profile
from search.base.config import Config, load_config
from search.study.inputs import adapted_model, base_model, calibration_images
from search.trials import rescore
from search.trials.rescore import scorer
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import random_masks

KEPT = random_masks(3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(write_tiny_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def images(config: Config) -> ImageSet:
    return calibration_images(config.datasets, TINY.img_size)


def scored(config: Config, images: ImageSet, weights: ScoringWeights, profile: Profile | None = None) -> PerSite:
    score = scorer(config.model, images, weights, 2, 0, profile)
    return score(prune(adapted_model(config.model), KEPT), KEPT)


@pytest.mark.parametrize("criterion", ["medcore", "fisher", "activation"])
def test_fresh_scores_are_those_of_the_whole_table(config: Config, images: ImageSet, criterion: str) -> None:
    weights = ScoringWeights(criterion=criterion, boundary_weight=3.0)
    models = [prune(model(config.model), KEPT) for model in (base_model, adapted_model)]
    table = build_table(*models, images.subset(rescore._drawn(images, 2, 0)), (0.0, 3.0))
    for mine, theirs in zip(scored(config, images, weights), mix(table, weights, TINY), strict=True):
        # single precision, where parts of a gradient may cancel
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max(initial=0))


def test_the_profile_is_restricted_to_what_is_left(
    config: Config, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    orders = tuple(generator.permutation(width) for width in TINY.dense_widths)
    profile = Profile(orders, tuple(np.arange(width, -1.0, -1.0) for width in TINY.dense_widths))
    monkeypatch.setattr(rescore, "build_table", None)  # no pass over images
    found = scored(config, images, ScoringWeights(criterion="second_order"), profile)
    for scores, order, keep in zip(found, orders, KEPT, strict=True):
        groups = np.flatnonzero(keep)
        assert [groups[place] for place in np.argsort(scores)] == [group for group in order if keep[group]]
    with pytest.raises(ConfigError, match="needs the second-order profile"):
        scored(config, images, ScoringWeights(criterion="second_order"))
