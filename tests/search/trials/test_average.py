"""A trial that averages the weights of earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.quality.evaluate import evaluate, summarise
from results.store.trials import read_images, trial_folder
from search.base.config import load_config
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import prepare
from search.trials import ledger
from search.trials.attempt import begin
from search.trials.files import CHECKPOINT
from search.trials.sampling.warm import warm_starts
from search.trials.trial import trial_phases
from tests.support.studies.study_files import write_tiny_study


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    config = load_config(write_tiny_study(tmp_path_factory.mktemp("averages"), recovery={"steps": 3}))
    images = search_images(config.datasets, adapted_model(config.model).arch.img_size)
    return prepare(trial_settings(config), study_jobs(config), images)


def trial(study: Path, shared: Shared, name: str, seed: int, **fields: Any) -> dict[str, Any]:
    issued = {"trial_id": name, "number": seed, "seed": seed, "repeats": None, "averages": (), **warm_starts(shared)[1]}
    return issued | {"study_dir": str(study), "attempt": begin(study, name, "a node")} | fields


def test_its_weights_are_the_mean_and_its_figures_those_of_the_mean(shared: Shared, tmp_path: Path) -> None:
    for seed in (1, 2):
        list(trial_phases(trial(tmp_path, shared, f"t{seed}", seed), shared))
    fields = {"averages": ("t1", "t2"), "origin": "average of t1", "teaches": False}
    found = list(trial_phases(trial(tmp_path, shared, "t3", 3, **fields), shared))
    assert [phase.name for phase in found] == ["leverage", "averaging", "evaluation", "row"]
    row = found[-1].row
    assert row is not None and row.origin == "average of t1" and row.repeats is None
    assert row.reason == "mean of the weights of t1, t2" and {"averaging", "evaluation"} <= row.timing.stages.keys()
    first, second, mean = (load(trial_folder(tmp_path, name) / CHECKPOINT) for name in ("t1", "t2", "t3"))
    moved = False
    for name, value in mean.state_dict().items():
        one, other = first.state_dict()[name], second.state_dict()[name]
        np.testing.assert_allclose(value.numpy(), (one.double() + other.double()).numpy() / 2, rtol=1e-6, atol=1e-8)
        moved = moved or not torch.equal(one, other)
    assert moved
    expected = summarise(evaluate(mean, shared.search_images))
    assert row.metrics["boundary_f1"] == pytest.approx(expected["boundary_f1"], abs=1e-9)
    assert len(read_images(tmp_path, ["t3"])) == len(shared.search_images)


def test_weights_that_are_gone_are_an_error_of_the_trial(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PATIENCE", 0.0)
    with pytest.raises(MedcoreError, match="t1"):
        list(trial_phases(trial(tmp_path, shared, "t3", 3, averages=("t1", "t2")), shared))
