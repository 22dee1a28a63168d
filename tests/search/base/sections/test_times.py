"""`cost: time` in the sections `budget` and `search`: which keys go together, and what the table's file must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medcore.budgets.allocators import ALLOCATORS
from medcore.budgets.prices import TIME, linear_prices, measured_prices
from medcore.errors import ConfigError, MedcoreError
from medcore.models.spec import ModelSpec
from medcore.quality.time_table import write_time_table
from search.base.config import load_config, validate
from search.base.sections.pruning import BudgetConfig
from search.base.sections.search import SearchConfig
from search.base.sections.times import counted
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study
from tests.support.time_tables import CURVES, TABLE


@pytest.fixture
def times(tmp_path: Path) -> Path:
    write_time_table(tmp_path / "times.json", TABLE)
    return tmp_path / "times.json"


@pytest.mark.parametrize("section", [BudgetConfig, SearchConfig])
def test_time_and_its_table_go_together(section: type[BudgetConfig | SearchConfig], times: Path) -> None:
    assert section.model_validate({"cost": "time", "times": str(times)}).times == times
    with pytest.raises(ValidationError, match="cost time needs `times`"):
        section.model_validate({"cost": "time"})
    with pytest.raises(ValidationError, match="serves cost time only, but the cost is flops_paper"):
        section.model_validate({"times": str(times)})
    with pytest.raises(ValidationError, match="cost"):
        section.model_validate({"cost": "money"})


@pytest.mark.parametrize("allocator", ["rule", "uniform", "to_target"])
def test_allocators_of_counted_costs_are_refused(allocator: str, times: Path) -> None:
    with pytest.raises(ValidationError, match=f"allocator {allocator} cannot meet measured time"):
        BudgetConfig(allocator=allocator, cost="time", times=times)


def test_budgets_by_shares_are_refused(times: Path) -> None:
    wrong = {"cost": "time", "times": times, "space": {"shape": {"choices": ["curves", "shares"]}}}
    with pytest.raises(ValidationError, match=r"cost time: .*shape shares .*counted costs"):
        SearchConfig.model_validate(wrong)


def test_an_error_is_one_line_that_names_the_section(tmp_path: Path) -> None:
    values = load_config(write_tiny_study(tmp_path)).model_dump()
    for section in ("budget", "search"):
        with pytest.raises(ConfigError, match=f"^file: {section}: cost time needs `times`") as caught:
            validate(values | {section: {"cost": "time"}}, "file")
        assert "\n" not in str(caught.value)


def test_paths_are_like_other_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write_tiny_study(tmp_path))
    monkeypatch.setenv("TIMES_OF_THIS_TEST", "sub")
    monkeypatch.chdir(tmp_path)
    section = {"cost": "time", "times": "$TIMES_OF_THIS_TEST/times.json"}
    values: dict[str, Any] = config.model_dump() | {"budget": section, "search": section}
    values["schedule"] = {"stages": [section]}
    absolute = validate(values, "file").absolute()
    wanted = tmp_path / "sub" / "times.json"
    assert (absolute.budget.times, absolute.search.times, absolute.schedule.stages[0].times) == (wanted,) * 3
    assert config.absolute().budget.times is None
    with pytest.raises(ConfigError, match="environment variable"):
        validate(values | {"budget": section | {"times": "$NOT_SET_ANYWHERE/t.json"}}, "file")


def test_a_request_carries_the_prices(times: Path) -> None:
    budget = BudgetConfig(cost="time", times=times, fraction=0.5)
    request = budget.request(np.ones(4), ModelSpec.dense(TINY), CURVES)
    prices, expected = request.prices, measured_prices(TABLE)
    assert prices is not None and prices.name == TIME
    assert (prices.dense, prices.fixed) == (expected.dense, expected.fixed)
    spec = ALLOCATORS[budget.allocator](request)
    assert 0.3 * expected.dense < expected.total(spec) <= 0.5 * expected.dense * (1 + 1e-9)
    assert BudgetConfig().request(np.ones(4), ModelSpec.dense(TINY), CURVES).prices is None


def test_several_costs_hold_at_once(times: Path) -> None:
    """The budget meets both costs, and each alone would break the other."""
    shares = {"flops": 0.6, "time": 0.4}
    prices = {"flops": linear_prices(TINY, "flops"), "time": measured_prices(TABLE)}
    rows = {}
    for name, within in [("both", shares), *((name, {name: share}) for name, share in shares.items())]:
        budget = BudgetConfig(within=within, times=times if "time" in within else None)
        spec = ALLOCATORS[budget.allocator](budget.request(np.ones(4), ModelSpec.dense(TINY), CURVES))
        rows[name] = {cost: price.total(spec) / price.dense for cost, price in prices.items()}
    assert all(rows["both"][name] <= share + 1e-9 for name, share in shares.items())
    assert rows["flops"]["time"] > shares["time"] and rows["time"]["flops"] > shares["flops"]


def test_several_costs_need_the_knapsack(times: Path) -> None:
    with pytest.raises(ValidationError, match="allocator rule cannot meet several costs"):
        BudgetConfig(allocator="rule", within={"flops": 0.5})
    with pytest.raises(ValidationError, match="cost time needs `times`"):
        BudgetConfig(within={"flops": 0.5, "time": 0.5})
    with pytest.raises(ValidationError, match="the cost is flops and flops_paper"):
        BudgetConfig(within={"flops": 0.5, "flops_paper": 0.5}, times=times)


def test_a_table_must_be_there_and_of_this_architecture(tmp_path: Path, times: Path) -> None:
    search = SearchConfig(cost="time", times=tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"none\.json: no readable time table"):
        search.prices(TINY)
    other = replace(TINY, name="other", embed_dim=48)
    with pytest.raises(MedcoreError, match=r"holds times of tiny, not of this other \(they differ in name, embed_dim"):
        SearchConfig(cost="time", times=times).prices(other)


def test_what_cannot_meet_time_meets_flops() -> None:
    assert counted("time") == "flops_paper" and counted("flops") == "flops"
    assert SearchConfig(cost="encoder_params").metric == "encoder_params"
