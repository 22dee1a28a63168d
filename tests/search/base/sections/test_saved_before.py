"""A study that was saved before curves, refits and halving existed keeps its meaning when it is read today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from search.base.config import Config, load_config, override, saved_config
from search.commands.sections import trial_settings
from search.study.needs import Needs, needs_of
from tests.support.studies.old_config import old_config

#: What later keys meant then, by section.
THEN: dict[str, dict[str, Any]] = {
    "data": {"recovery_per_dataset": 128},
    "recovery": {"warmup": 0, "average": 0.0, "refit_images": 0, "terms": {}, "refit_neck": "none"},
    "search": {"finalists": 0.0, "average_runs": False},
}
PLAIN = {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.model_validate(old_config())


def test_every_key_that_was_saved_has_its_value(config: Config) -> None:
    now = config.model_dump(mode="json")
    differing = [
        (section, key)
        for section, values in old_config().items()
        if isinstance(values, dict)
        for key, value in values.items()
        if key not in ("space", "warm_starts") and now[section][key] != value
    ]
    assert differing == []
    for name in ("space", "warm_starts"):
        assert old_config()["search"][name].items() <= now["search"][name].items()


def test_later_keys_mean_what_happened_then(config: Config) -> None:
    now = config.model_dump(mode="json")
    for section, values in THEN.items():
        assert values.items() <= now[section].items()
    space, starts = config.search.space, config.search.warm_starts
    assert space.shape.values == ("shares",) and space.draws_residuals
    assert starts.knapsack == () and starts.rule == (0.5, 0.3, 0.15)
    assert config.search.scheduler == "none" and config.search.last_trials == 0
    assert needs_of(trial_settings(config)) == Needs(fisher=True, profile=False)


def test_the_recovery_images_were_the_calibration_images() -> None:
    values = old_config()
    values["data"]["calibration_per_dataset"] = None
    assert Config.model_validate(values).data.recovery_per_dataset is None
    values["data"]["calibration_per_dataset"] = 7
    assert Config.model_validate(values).data.recovery_per_dataset == 7


def test_a_study_from_before_schedulers_ran_every_trial_to_its_end() -> None:
    values = old_config()
    for name in ("scheduler", "scheduler_objective", "scheduler_images"):
        del values["search"][name]
    search = Config.model_validate(values).search
    assert (search.scheduler, search.finalists) == ("none", 0.0)


def test_a_study_from_before_further_terms_of_the_loss_has_none() -> None:
    values = Config.model_validate(PLAIN).model_dump(mode="json")
    assert values["recovery"]["terms"] == {"lomix": 6.0}
    assert Config.model_validate(values).recovery.terms == {"lomix": 6.0}
    del values["recovery"]["terms"], values["recovery"]["refit_neck"]  # which came later
    assert Config.model_validate(values).recovery.terms == {}
    assert Config.model_validate(values).recovery.neck == "none"


@pytest.mark.parametrize("without", [(), ("train_decoder",), ("train_decoder", "decoder_rate")])
def test_a_study_from_before_refits_of_the_neck_has_none(without: tuple[str, ...]) -> None:
    values = Config.model_validate(PLAIN).model_dump(mode="json")
    assert Config.model_validate(values).recovery.neck == "pointwise"
    for key in ("refit_neck", *without):
        del values["recovery"][key]
    recovery = Config.model_validate(values).recovery
    assert recovery.neck == "none" and recovery.terms == {"lomix": 6.0}


def test_given_terms_replace_the_default_ones() -> None:
    for terms in ({}, {"directional": 10.0}, {"lomix": 0.0}):
        assert Config.model_validate(PLAIN | {"recovery": {"terms": terms}}).recovery.terms == terms


def test_a_file_that_is_written_again_reads_back_equal(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config
    assert override(config, trials=64, name=None, tracking_uri=None).recovery == config.recovery
    assert saved_config(old_config(), "c.yaml", "recovery", "search").search == config.search


@pytest.mark.parametrize("section", ["recovery", "data", "search"])
def test_a_section_that_a_person_has_written_has_the_defaults_of_today(section: str) -> None:
    values = old_config()
    some = dict(list(values[section].items())[:2])
    config = Config.model_validate(values | {section: some})
    then = Config.model_validate(values)
    assert all(getattr(getattr(config, section), key) != value for key, value in THEN[section].items())
    assert getattr(config, section) != getattr(then, section)


def test_every_section_of_today_says_that_it_is_of_today() -> None:
    """A full dump of today is not taken for an old one."""
    plain = {name: old_config()[name] for name in ("study", "model")} | {"data": {"folders": ["d"]}}
    today = Config.model_validate(plain)
    assert Config.model_validate(yaml.safe_load(today.to_yaml())) == today
    assert today.recovery.refit_images == 64 and today.data.recovery_per_dataset is None


def test_studies_from_before_averages_have_none_and_new_ones_do(config: Config) -> None:
    """A study with all keys but this one was saved before; a file with few keys was written by a person."""
    assert Config.model_validate(PLAIN).averages
    saved = Config.model_validate(PLAIN).model_dump(mode="json")
    assert Config.model_validate(saved).averages
    del saved["search"]["average_runs"]
    assert not Config.model_validate(saved).averages
    assert not Config.model_validate({**PLAIN, "schedule": {"plan": "plateau", "rounds": 2}}).averages
