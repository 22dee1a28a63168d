"""What a scheduler sees of a trial on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.losses import boundary_band
from medcore.models.cut import prune
from medcore.quality.evaluate import evaluate, low_logits, summarise
from search.study.inputs import Shared, adapted_model, cost_metrics
from search.trials.looks import BAND_ERROR, look
from tests.support.shared_inputs import shared_of
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import random_masks


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("study"))


def shown(shared: Shared) -> dict[str, float]:
    return look(prune(adapted_model(shared.settings.model), random_masks()), shared)


def test_a_look_has_quality_costs_and_the_error_in_the_boundary_band(config_file: Path) -> None:
    shared = shared_of(config_file)
    model, images = prune(adapted_model(shared.settings.model), random_masks()), shared.search_images
    found = look(model, shared)
    means = summarise(evaluate(model, images))
    expected = {name: value for name, value in means.items() if "/" not in name} | cost_metrics(model.spec)
    assert {name: value for name, value in found.items() if name != BAND_ERROR} == expected

    logits, errors = low_logits(model, images), []
    for mine, theirs, mask in zip(logits, shared.search_logits, images.low_masks(32), strict=True):
        band = boundary_band(torch.from_numpy(mask.astype(np.float32))[None, None])[0, 0].numpy() > 0
        errors.append(np.mean((mine[band].astype(float) - theirs[band].astype(float)) ** 2))
    assert found[BAND_ERROR] == pytest.approx(np.mean(errors), rel=1e-6)


def test_the_unpruned_model_has_no_error_but_that_of_half_precision(config_file: Path) -> None:
    shared = shared_of(config_file)
    assert look(adapted_model(shared.settings.model), shared)[BAND_ERROR] < 1e-5 < shown(shared)[BAND_ERROR]


def test_a_look_may_take_some_images_evenly_spread(config_file: Path) -> None:
    two = shared_of(config_file, scheduler_images=2)
    model = prune(adapted_model(two.settings.model), random_masks())
    expected = summarise(evaluate(model, two.search_images.subset([0, 3])))
    assert shown(two)["boundary_f1"] == expected["boundary_f1"]
    assert shown(shared_of(config_file, scheduler_images=99)) == shown(shared_of(config_file, scheduler_images=None))
