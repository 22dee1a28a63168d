"""Which statistics a study computes."""

from __future__ import annotations

from typing import Any

import pytest

from search.base.config import Config
from search.commands.prune import needs_of_prune
from search.commands.sections import trial_settings
from search.study.needs import Needs, needs_of
from tests.support.studies.old_config import old_config

PLAIN = {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}
OWN = {"scoring": {"criterion": "medcore"}}


def config_of(space: dict[str, Any] | None = None, **sections: Any) -> Config:
    values = {**PLAIN, **sections}
    return Config.model_validate(values | {"search": {**sections.get("search", {}), "space": space or {}}})


def needs(space: dict[str, Any] | None = None, **sections: Any) -> Needs:
    return needs_of(trial_settings(config_of(space, **sections)))


def test_by_default_a_search_needs_no_fisher_information() -> None:
    assert needs() == Needs(fisher=False, profile=True)
    assert needs_of(trial_settings(Config.model_validate(old_config()))) == Needs(fisher=True, profile=False)


@pytest.mark.parametrize(
    ("space", "sections"),
    [
        ({"criterion": {"choices": ["second_order", "fisher"]}}, {}),
        ({"criterion": "michel"}, {}),
        ({"blend": {"low": 0.0, "high": 1.0}}, {}),
        ({"blend": 0.5}, {}),
        ({"blend": {"choices": [1.0, 0.0]}}, {}),
        ({"follow_heads": {"low": 0, "high": 1}}, {}),
        ({"follow_channels": 0.5}, {}),
        ({}, {"search": {"warm_starts": {"rule": [0.5]}}}),
        ({}, OWN),
    ],
)
def test_whatever_reads_fisher_information_asks_for_it(space: dict[str, Any], sections: dict[str, Any]) -> None:
    assert needs(space, **sections).fisher


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_criteria_of_weights_need_nothing(criterion: str) -> None:
    space = {"criterion": criterion, "shape": "shares"}
    assert needs(space, scoring={"criterion": criterion}) == Needs(fisher=False, profile=False)


def test_curves_or_second_order_scores_need_the_profile() -> None:
    space = {"criterion": "magnitude", "shape": "shares"}
    assert not needs(space, scoring={"criterion": "magnitude"}).profile
    assert needs(space).profile  # the warm starts are ranked by scoring.criterion
    both = {**space, "shape": {"choices": ["curves", "shares"]}}
    assert needs(both, scoring={"criterion": "magnitude"}).profile
    assert needs({**space, "criterion": "second_order"}, scoring={"criterion": "magnitude"}).profile


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, Needs(fisher=False, profile=True)),
        ({"budget": {"allocator": "uniform"}}, Needs(fisher=False, profile=True)),
        ({"budget": {"allocator": "rule"}}, Needs(fisher=True, profile=True)),
        ({"budget": {"allocator": "to_target"}, **OWN}, Needs(fisher=True, profile=False)),
        (OWN, Needs(fisher=True, profile=True)),
        ({"schedule": {"stages": [{"allocator": "rule"}]}}, Needs(fisher=True, profile=True)),
        ({"budget": {"allocator": "uniform"}, "scoring": {"criterion": "magnitude"}}, Needs(False, False)),
    ],
)
def test_pruning_needs_what_its_budgets_and_scores_read(sections: dict[str, Any], expected: Needs) -> None:
    assert needs_of_prune(config_of(**sections)) == expected
