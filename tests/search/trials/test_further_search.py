"""A search whose model is pruned already: what it samples, its warm starts, and whole trials."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from results.store.study_info import read_study_info
from search.base.config import Config, load_config
from search.base.sections.dimensions import Choices, Fixed, Range
from search.commands.open_study import describe
from search.commands.prune import prune
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, cost_metrics, dense_metrics, search_images
from search.study.prepare import prepare
from search.trials.attempt import begin
from search.trials.sampling.reach import reachable_starts
from search.trials.sampling.space import below, check_fractions, decode, domain_of, sample
from search.trials.sampling.warm import warm_starts
from search.trials.trial import trial_phases
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study

DENSE = cost(ModelSpec.dense(TINY)).flops_paper
STARTS = {"knapsack": [0.7, 0.3], "uniform": [0.6, 0.25], "rule": [0.4]}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A study of the model that a first stage has left at half of the FLOPs."""
    folder = tmp_path_factory.mktemp("further")
    prune(load_config(write_tiny_study(folder)), folder / "first.safetensors")
    search = {
        "space": {"fraction": {"low": 0.2, "high": 1.0, "log": True}},
        "warm_starts": STARTS,
        "scheduler": "none",
        "leverage_images": 2,
    }
    model = {"adapted": str(folder / "first.safetensors")}
    return load_config(write_tiny_study(folder, model=model, search=search)).absolute()


@pytest.fixture(scope="module")
def shared(config: Config) -> Shared:
    images = search_images(config.datasets, TINY.img_size)
    return prepare(trial_settings(config), study_jobs(config), images)


def share(spec: ModelSpec) -> float:
    return cost(spec).flops_paper / DENSE


def test_sampled_budgets_lie_within_the_model(shared: Shared) -> None:
    domain, start = domain_of(shared), shared.start
    assert start is not None and 0.4 < share(start) < 0.5
    fraction = domain.dimensions["fraction"]
    assert isinstance(fraction, Range) and (fraction.low, fraction.high) == (0.2, pytest.approx(share(start)))
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(10):
        params = sample(study.ask(), domain)
        spec = decode(params, domain).spec
        assert all(new <= old for new, old in zip(spec.widths, start.widths, strict=True)) and spec != start
        assert share(spec) <= params["fraction"]


def test_warm_starts_that_remove_nothing_are_left_out(shared: Shared) -> None:
    starts = warm_starts(shared)
    assert [start["origin"] for start in starts] == ["dense", "knapsack 0.3", "uniform 0.25", "rule 0.4"]
    notes = reachable_starts(shared.settings.search, shared.start_spec).notes
    assert [note.partition(", because")[0] for note in notes] == [
        "search.warm_starts: skipped knapsack 0.7",
        "search.warm_starts: skipped uniform 0.6",
    ]
    specs = [decode(start["params"], domain_of(shared)).spec for start in starts]
    assert specs[0] == shared.start
    assert share(specs[1]) <= 0.3 and share(specs[3]) <= 0.4
    assert share(specs[2]) == pytest.approx(0.25, abs=0.02)


def test_a_trial_of_a_pruned_model(shared: Shared, tmp_path: Path) -> None:
    trial: dict[str, Any] = {
        "trial_id": "t0001",
        "number": 1,
        "seed": 7,
        "repeats": None,
        "averages": (),
        **warm_starts(shared)[1],
    }
    trial |= {"study_dir": str(tmp_path), "attempt": begin(tmp_path, "t0001", "a node")}
    row = list(trial_phases(trial, shared))[-1].row
    assert row is not None and row.is_done
    model = load(tmp_path / "trials" / "t0001" / "model.safetensors")
    start = adapted_model(shared.settings.model)
    assert row.metrics["flops_paper_fraction"] == pytest.approx(share(model.spec)) and share(model.spec) <= 0.3
    assert model.kept is not None and start.kept is not None
    assert all(not (new & ~old).any() for new, old in zip(model.kept, start.kept, strict=True))
    assert row.metrics["leverage_bd95"] > 0


def test_the_study_describes_the_model_at_its_start(config: Config, shared: Shared) -> None:
    describe(config, shared.search_images)
    info = read_study_info(config.folder)
    assert shared.start is not None and info.start == shared.start.budget
    assert info.widths == ModelSpec.dense(TINY).budget
    expected = dense_metrics(config.model, shared.search_images, autocast=False)
    assert info.dense == expected and expected["flops"] == cost_metrics(shared.start)["flops"]
    assert info.start_share("heads") == sum(shared.start.family("heads")) / 12
    assert dataclasses.replace(shared, start=None).start_spec.is_dense


def test_fractions_that_remove_nothing_are_refused(config: Config, shared: Shared) -> None:
    assert below(Choices(choices=(0.3, 0.6)), 0.5) == Choices(choices=(0.3,))
    assert below(Fixed(0.3), 0.5) == Fixed(0.3)
    for dimension in (Range(low=0.6, high=0.9), Choices(choices=(0.5, 0.6)), Fixed(0.5)):
        with pytest.raises(MedcoreError, match=r"search\.space\.fraction: .*nothing is removed"):
            below(dimension, 0.5)
    start = adapted_model(config.model).spec
    check_fractions(shared.settings, start)
    space = config.search.space.model_copy(update={"fraction": Fixed(0.9)})
    search = config.search.model_copy(update={"space": space})
    with pytest.raises(MedcoreError, match="nothing is removed"):
        check_fractions(dataclasses.replace(shared.settings, search=search), start)
