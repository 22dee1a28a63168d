"""Sections of studies that were saved before refits existed, and what the shipped recipes of papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import search
from medcore.training.orders import TOGETHER
from search.base.sections.pruning import RecoveryConfig, ScheduleConfig

CONFIGS = Path(search.__path__[0]) / "configs"
#: The section as an earlier version saved it.
SAVED: dict[str, Any] = {
    "steps": 200,
    "head_share": 0.5,
    "batch_size": 4,
    "lr": 1e-5,
    "lambdas": [1.0, 0.5, 2.0, 0.5],
    "lr_schedule": "constant",
    "autocast": False,
    "save_every": 50,
}


def test_the_defaults_cut_together_refit_and_average() -> None:
    recovery = RecoveryConfig()
    assert (recovery.lr, recovery.warmup, recovery.average) == (None, 5, 0.5)
    assert (recovery.refit_images, recovery.refit_ridge) == (64, 1e-3)
    assert ScheduleConfig().order == TOGETHER


def test_the_rate_follows_the_budget_unless_it_is_given() -> None:
    """The reference: 1e-4 from a tenth of the FLOPs on, about 2e-4 at 6 to 8 % and 3e-4 at 5 %."""
    rates = {fraction: RecoveryConfig().rate(fraction) for fraction in (1.0, 0.1, 0.08, 0.06, 0.05)}
    assert rates[1.0] == rates[0.1] == 1e-4
    assert 1.2e-4 < rates[0.08] < 2e-4 < rates[0.06] < 2.5e-4 < rates[0.05] < 3e-4
    assert RecoveryConfig(lr=1e-5).rate(0.05) == 1e-5


def test_a_section_saved_before_refits_keeps_its_meaning() -> None:
    recovery = RecoveryConfig.model_validate(SAVED)
    assert (recovery.warmup, recovery.average, recovery.refit_images) == (0, 0.0, 0)
    assert RecoveryConfig.model_validate(recovery.model_dump()) == recovery
    # a section that a person has written has fewer keys, or new ones
    assert RecoveryConfig.model_validate({"steps": 100}).refit_images == 64
    assert RecoveryConfig.model_validate(SAVED | {"warmup": 2}).refit_images == 64


def test_an_unknown_choice_of_the_neck_is_one_problem() -> None:
    with pytest.raises(ValidationError, match="'auto', 'none', 'pointwise' or 'all'") as refused:
        RecoveryConfig.model_validate({"refit_neck": "pointwize"})
    assert refused.value.error_count() == 1


def test_more_of_the_neck_is_refit_where_no_recovery_follows() -> None:
    assert RecoveryConfig().neck == "pointwise" and RecoveryConfig(steps=0).neck == "all"
    assert RecoveryConfig(steps=0, refit_neck="none").neck == "none" and RecoveryConfig(refit_neck="all").neck == "all"
    for words, neck in (
        ("none", "none"),
        ("auto", "pointwise"),
        ("all", "all"),
    ):  # none of them is a word of YAML's own
        assert RecoveryConfig.model_validate(yaml.safe_load(f"refit_neck: {words}")).neck == neck


@pytest.mark.parametrize(
    "wrong", [{"average": 1.5}, {"refit_neck": "some"}, {"refit_images": -1}, {"refit_ridge": -1e-3}, {"warmup": -1}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RecoveryConfig.model_validate(wrong)


@pytest.mark.parametrize("name", ["paper", "two_stage", "progressive", "faithful", "faithful_two_stage"])
def test_the_recipes_of_papers_name_all_that_differs_from_the_defaults(name: str) -> None:
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    recovery = RecoveryConfig.model_validate(values["recovery"])
    assert (recovery.lr, recovery.warmup, recovery.average, recovery.refit_images) == (1e-5, 0, 0, 0)
    assert recovery.lr_schedule == "constant" and recovery.lambdas == (1, 0.5, 2, 0.5)
    assert {"lr", "warmup", "average", "refit_images"} <= values["recovery"].keys()
    order = ScheduleConfig.model_validate(values["schedule"]).order
    assert order == ("together" if name == "progressive" else "heads_first")
