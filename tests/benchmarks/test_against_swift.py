"""LiteMedSAM's search against SwiftMedSAM's budgets, on a little model, and the weights for small machines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.lite import weights
from benchmarks.lite.against_swift import COST, Case, cases_of, front_of, recovered, share_of
from benchmarks.lite.tables import COSTS, METRICS, picture, tables
from medcore.budgets.targets import uniform_to_target
from medcore.models.checkpoint import load, save
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from results.store.trials import read_row
from search.base.config import Config, load_config
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import prepare
from tests.support.studies.made_trials import is_picture
from tests.support.studies.study_files import write_tiny_study
from tests.support.tiny_vit import LITTLE

#: As deep as LiteMedSAM, so that SwiftMedSAM's budgets fit.
DEEP = dataclasses.replace(LITTLE, depths=(2, 2, 6, 2), decoder=dataclasses.replace(LITTLE.decoder, depth=2))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("lite")
    torch.manual_seed(0)
    save(folder / "lite.safetensors", build(ModelSpec.dense(DEEP)))
    both = {name: str(folder / "lite.safetensors") for name in ("base", "adapted")}
    objectives = [{"name": f"{COST}_fraction", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]
    path = write_tiny_study(
        folder,
        model={**both, "parts": ["encoder", "decoder"]},
        data={"calibration_per_dataset": 2, "recovery_per_dataset": 2, "search_per_dataset": 2},
        recovery={"steps": 1, "refit_images": 2},
        search={"cost": COST, "objectives": objectives, "leverage_images": 0, "scheduler": "none"},
    )
    return load_config(path)


@pytest.fixture(scope="module")
def shared(config: Config) -> Shared:
    images = search_images(config.datasets, adapted_model(config.model).arch.frame)
    return prepare(trial_settings(config), study_jobs(config), images)


def test_the_search_and_swiftmedsam_get_equal_recoveries_at_equal_cost(config: Config, shared: Shared) -> None:
    sampled = Case("sampled", "half", uniform_to_target(shared.arch, 0.5, COST))
    checkpoint = recovered(sampled, 3, shared, config.folder)  # a study whose front is one model
    cases = cases_of(config.folder, config, shared)
    assert [case.name for case in cases] == [
        "dense",
        *(f"{budget}-{at}" for at in ("v1", "v2") for budget in ("swift", "uniform", "knapsack", "search")),
    ]
    swift, uniform, knapsack, search = cases[-4:]
    blocks = swift.spec.family("blocks")
    assert [sum(blocks[:2]), sum(blocks[2:4]), sum(blocks[4:10]), sum(blocks[10:])] == [1, 2, 2, 2]
    assert sum(swift.spec.family("decoder_layers")) == 1
    assert share_of(uniform.spec) == pytest.approx(share_of(swift.spec), abs=0.002)
    assert share_of(swift.spec) - 0.02 < share_of(knapsack.spec) <= share_of(swift.spec)
    assert search.spec == sampled.spec

    before = checkpoint.stat().st_mtime_ns
    assert recovered(sampled, 3, shared, config.folder) == checkpoint
    assert checkpoint.stat().st_mtime_ns == before  # it is not made again
    row = read_row(config.folder, "sampled-half-3")
    assert row is not None and row.seed == 3 and load(checkpoint).spec == sampled.spec
    (member,) = front_of(config.folder, config, shared.search_images, config.output / "work")
    assert member["trial"] == row.trial_id and member["boundary_f1"] == pytest.approx(row.metrics["boundary_f1"])


def test_differences_to_swiftmedsam_are_paired_and_means_over_seeds(tmp_path: Path) -> None:
    images = pd.DataFrame(
        {"budget": budget, "at": at, "seed": seed, "dataset": dataset, "name": name}
        | dict.fromkeys(COSTS, 0.75)
        | dict.fromkeys(METRICS, 0.5 + gain + 0.1 * seed + place / 10)
        for budget, at, gain in (("dense", "", 0.1), ("swift", "v2", 0.0), ("search", "v2", 0.02))
        for seed in range(2)
        for dataset, count in (("one", 1), ("two", 3))
        for place, name in enumerate("abc"[:count])
    )
    front = pd.DataFrame([{"origin": "knapsack 0.5", **dict.fromkeys([*COSTS, *METRICS], 0.5)}] * 2)
    tables(images, front, tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    # data sets count alike: means of 0.5 and 0.6, and the seeds' mean of 0.05
    assert lines[3].startswith("| SwiftMedSAM v2 | 75.0% |") and "| 0.6000 (0.5500–0.6500) |" in lines[3]
    # the same gain on every image leaves no doubt
    assert lines[4].endswith("| +0.0200 (+0.0200 … +0.0200) |")
    assert lines[-1] == "| knapsack 0.5 | 50.0% | 50.0% | 0.5000 | 0.50 | 0.5000 |"
    assert len(pd.read_csv(tmp_path / "table.csv")) == 6
    picture(images, front, tmp_path / "front.png")
    assert is_picture(tmp_path / "front.png")


def test_small_weights_come_closer_to_the_teacher(
    config: Config, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    teacher = build(ModelSpec.dense(dataclasses.replace(DEEP, name="teacher")))
    model = weights.fresh(DEEP, teacher, seed=0)
    inherited = model.mask_decoder.state_dict()
    assert all(torch.equal(value, inherited[name]) for name, value in teacher.mask_decoder.state_dict().items())
    wanted = weights.embeddings(teacher, shared.calibration)
    monkeypatch.setattr(weights, "WARMUP", 1)
    monkeypatch.setattr(weights, "BATCH", 2)
    losses = weights.train(model, shared.calibration, wanted, steps=4, seed=0)
    assert len(losses) == 4 and losses[-1] < losses[0] and not model.training
