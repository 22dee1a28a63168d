"""Tables of measured times: numbers, files and damaged files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.prices import TIME, linear_prices, measured_prices
from medcore.errors import ConfigError, MedcoreError
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.quality.time_table import Conditions, SiteTimes, TimeTable, read_time_table, write_time_table
from tests.support.helpers import TINY
from tests.support.toy.samples import TOY, random_spec

CONDITIONS = Conditions("a CPU", 1, 1, False, "2.0")
HEADS = SiteTimes((0, 1, 3), (0.0, 1.0, 2.0))
CHANNELS = SiteTimes((0, 8, 48), (0.0, 0.5, 4.5))
TABLE = TimeTable(TINY, CONDITIONS, "2026-01-01", 3.0, 29.5, (HEADS,) * 4 + (CHANNELS,) * 4)


def test_widths_between_the_measured_ones_lie_on_straight_lines() -> None:
    assert HEADS.at_all_widths().tolist() == [0.0, 1.0, 1.5, 2.0]
    found = CHANNELS.at_all_widths()
    # any channel at all makes the part run
    assert found[0] == 0.0 and found[1:9].tolist() == [0.5] * 8
    np.testing.assert_allclose(np.diff(found[8:]), 0.1)


def test_a_prediction_adds_up_the_parts() -> None:
    spec = ModelSpec(TINY, (0, 1, 2, 3, 0, 4, 18, 48))
    assert TABLE.predict(spec) == pytest.approx(3.0 + (0 + 1 + 1.5 + 2) + (0 + 0.5 + 1.5 + 4.5))
    prices = measured_prices(TABLE)
    assert prices.total(spec) == pytest.approx(TABLE.predict(spec))
    assert (prices.name, prices.fixed, prices.dense) == (TIME, 3.0, pytest.approx(3 + 4 * 2 + 4 * 4.5))


def test_counted_prices_are_the_cost() -> None:
    for seed in range(10):
        spec = random_spec(seed)
        for metric in ("flops", "flops_paper", "encoder_params"):
            assert linear_prices(TOY, metric).total(spec) == getattr(cost(spec), metric)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0.3, 0.55, 0.9, 1.0])
def test_a_budget_within_a_share_of_measured_time(fraction: float) -> None:
    prices = measured_prices(TABLE)
    curves = tuple((1 - np.arange(width + 1) / width) ** 2 for width in TINY.dense_widths)
    spec = knapsack_budget(TINY, curves, fraction, prices=prices)
    assert prices.total(spec) <= fraction * prices.dense * (1 + 1e-9)
    # keeping 1 channel costs as much as keeping 8
    assert all(width == 0 or width >= 8 for width in spec.family("channels"))
    assert spec.is_dense == (fraction == 1.0)
    with pytest.raises(ConfigError, match=r"a time fraction of 0\.05 is out of reach; .* 0\.1035"):
        knapsack_budget(TINY, curves, 0.05, prices=prices)


@pytest.mark.parametrize(
    ("widths", "ms", "message"),
    [
        ((0, 3), (0.0,), "one time each"),
        ((0,), (0.0,), "rise from 0"),
        ((1, 3), (0.0, 1.0), "rise from 0"),
        ((0, 3, 3), (0.0, 1.0, 2.0), "rise from 0"),
        ((0, 3), (0.1, 1.0), "finite and rise from 0"),
        ((0, 1, 3), (0.0, 2.0, 1.0), "finite and rise from 0"),
        ((0, 3), (0.0, float("nan")), "finite and rise from 0"),
        ((0, 3), (0.0, float("inf")), "finite and rise from 0"),
    ],
)
def test_times_of_a_site_are_checked(widths: tuple[int, ...], ms: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SiteTimes(widths, ms)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    write_time_table(path, TABLE)
    assert read_time_table(path) == read_time_table(path, TINY) == TABLE
    assert str(TABLE.conditions) == "a CPU, 1 thread, 1 image a call, float32, torch 2.0"
    with pytest.raises(MedcoreError, match="cannot be written"):
        write_time_table(tmp_path / "absent" / "times.json", TABLE)


def test_a_table_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    write_time_table(path, TABLE)
    with pytest.raises(ConfigError, match=r"holds times of tiny, not of this tiny \(they differ in img_size\)"):
        read_time_table(path, dataclasses.replace(TINY, img_size=128))
    with pytest.raises(ConfigError, match=r"not of this toy .*--table"):
        read_time_table(path, TOY)


def changed(path: tuple[str, ...], value: Any) -> str:
    """The file with one value replaced, or removed if it is ...."""
    values = json.loads(json.dumps(TABLE.to_dict()))
    place = values
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no time table"),
        (changed(("format",), "medcore-time-table-0"), "no time table"),
        (changed(("fixed_ms",), 0), "fixed_ms must be positive"),
        (changed(("dense_ms",), -1.0), "dense_ms must be positive"),
        (changed(("fixed_ms",), float("nan")), "no finite number"),
        (changed(("fixed_ms",), "3"), "no finite number"),
        (changed(("device",), ...), "damaged time table .*device"),
        (changed(("sites", "heads/02"), ...), "damaged time table .*heads/02"),
        (changed(("sites", "heads/09"), {}), "sites heads/09 are unknown"),
        (changed(("sites", "heads/02", "ms"), [0, 1]), "one time each"),
        (changed(("sites", "heads/02", "widths"), [0, 1, 2.5]), "whole numbers"),
        (changed(("sites", "heads/02", "widths"), [0, 1, 2]), r"end at widths \[3, 3, 2, 3, 48"),
        (changed(("sites", "heads/02", "ms"), [0, 1, float("inf")]), "no finite number"),
        (changed(("sites",), []), "damaged time table"),
        (changed(("arch", "depth"), 10**9), "damaged time table .*depth"),
        (changed(("arch",), 3), "damaged time table"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(MedcoreError, match=rf"times\.json: .*{message}.*--table") as caught:
        read_time_table(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no readable time table"):
        read_time_table(tmp_path / "times.json")
