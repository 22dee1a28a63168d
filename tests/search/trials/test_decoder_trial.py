"""A trial that prunes encoder and mask decoder: sampled, cut, refit, recovered, measured and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medcore.errors import ConfigError
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from results.store.trial_row import TrialRow
from results.store.trials import read_row
from search.base.config import Config, load_config, validate
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import prepare
from search.trials.attempt import begin
from search.trials.sampling.warm import warm_starts
from search.trials.trial import trial_phases
from tests.support.studies.study_files import write_tiny_study

OBJECTIVES = [{"name": "call_flops_fraction", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]


def config_of(folder: Path, train_decoder: bool = False, **model: object) -> Config:
    recovery = {"steps": 3, "train_decoder": train_decoder}
    values = load_config(write_tiny_study(folder, recovery=recovery)).model_dump(mode="json")
    values["model"] |= model
    if "decoder" in values["model"].get("parts", ()):
        values["search"] |= {"scheduler": "none", "cost": "call_flops", "objectives": OBJECTIVES}
    return validate(values, "test")


def trial_of(config: Config) -> tuple[Shared, dict[str, Any], TrialRow, MedSam]:
    """What trials share, the first knapsack's start, its row and its saved model."""
    images = search_images(config.datasets, adapted_model(config.model).arch.img_size)
    shared = prepare(trial_settings(config), study_jobs(config), images)
    start = next(start for start in warm_starts(shared) if start["origin"].startswith("knapsack"))
    trial = {"trial_id": "t0001", "number": 1, "seed": 7, "repeats": None, "averages": (), **start}
    study = config.folder
    *_, last = trial_phases(trial | {"study_dir": str(study), "attempt": begin(study, "t0001", "a node")}, shared)
    row = read_row(study, "t0001")
    assert row is not None and row == last.row and row.is_done
    return shared, start, row, load(study / str(row.checkpoint))


def test_a_trial_cuts_both_parts(tmp_path: Path) -> None:
    shared, start, row, model = trial_of(config_of(tmp_path, parts=["encoder", "decoder"], drop=["iou"]))
    assert {"decoder_layers", "decoder_channels"} <= set(shared.start_spec.budget)
    share = float(start["params"]["fraction"])
    assert row.metrics["call_flops_fraction"] <= share and row.metrics["decoder_params_fraction"] < 1
    assert model.spec.budget["decoder_outputs"] == [1, 1, 1, 0]
    assert {name: list(widths) for name, widths in row.budget.items()} == model.spec.budget


@pytest.mark.parametrize("train_decoder", [False, True])
def test_a_trial_of_the_encoder_keeps_the_decoder_unless_it_is_to_train(tmp_path: Path, train_decoder: bool) -> None:
    config = config_of(tmp_path, train_decoder)
    *_, model = trial_of(config)
    dense = adapted_model(config.model).mask_decoder.state_dict()
    same = [torch.equal(value, dense[name]) for name, value in model.mask_decoder.state_dict().items()]
    assert any(same) if train_decoder else all(same)  # outputs without a part in the mask have no gradient
    assert all(same) is not train_decoder


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"drop": ["iou"]}, "model: drop leaves out outputs of the decoder, so parts must hold decoder"),
        ({"parts": []}, "model.parts"),
        ({"parts": ["decoder", "decoder"]}, "names a part twice"),
        ({"parts": ["neck"]}, "model.parts"),
    ],
)
def test_parts_that_are_none_are_one_line(model: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_of(tmp_path, **model)
    assert "\n" not in str(caught.value)
