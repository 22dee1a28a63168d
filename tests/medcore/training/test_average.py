"""The mean of the weights of models that were recovered from the same cut."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.cut import prune
from medcore.models.sam import MedSam
from medcore.training.average import mean_model
from tests.support.training_samples import random_masks, tiny_model


def moved(model: MedSam, seed: int) -> MedSam:
    """A copy whose encoder has other weights."""
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.image_encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    return other


def test_the_mean_is_numpys_and_what_did_not_train_keeps_its_bits() -> None:
    start = prune(tiny_model(), random_masks())
    models = [moved(start, seed) for seed in range(3)]
    states = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    mean = mean_model(models)
    assert mean.spec == start.spec and mean.kept is not None
    for name, value in mean.state_dict().items():
        expected = np.mean([state[name].double().numpy() for state in states], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)
        if not name.startswith("image_encoder"):
            assert torch.equal(value, start.state_dict()[name])


def test_one_model_is_its_own_mean() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in mean_model([model]).state_dict().items())


def test_models_that_keep_other_groups_do_not_mix() -> None:
    first, second = random_masks(0), tuple(mask[::-1].copy() for mask in random_masks(0))
    same_widths = [prune(tiny_model(), masks) for masks in (first, second)]
    assert same_widths[0].spec == same_widths[1].spec
    with pytest.raises(MedcoreError, match="different groups"):
        mean_model(same_widths)
    with pytest.raises(MedcoreError, match="different groups"):
        mean_model([tiny_model(), same_widths[0]])
    with pytest.raises(MedcoreError, match="no model"):
        mean_model([])
