"""The benchmark of budgets by measured time: pairs of equal time, and times at equal quality."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.time_budgets import (
    encoder_seconds,
    markdown_of,
    pair_of,
    resampled,
    time_at,
    timed_by,
    with_comparisons,
)
from medcore.budgets.prices import measured_prices
from tests.support.helpers import TINY, model_of
from tests.support.time_tables import CURVES, TABLE

PRICES = measured_prices(TABLE)


def loss(widths: tuple[int, ...]) -> float:
    return float(sum(curve[width] for curve, width in zip(CURVES, widths, strict=True)))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_both_budgets_of_a_pair_take_the_time(share: float) -> None:
    pair = pair_of(TINY, CURVES, share, PRICES)
    for spec in (pair.by_time, pair.by_flops):
        assert PRICES.total(spec) <= share * PRICES.dense * (1 + 1e-9)
    assert loss(pair.by_time.widths) <= loss(pair.by_flops.widths) + 1e-9
    # the next larger budget by FLOPs would take too long, so little of the time is left over
    assert PRICES.total(pair.by_flops) > 0.7 * share * PRICES.dense


def test_the_time_at_a_quality_lies_on_the_front() -> None:
    times, qualities = [4.0, 1.0, 2.0, 3.0], [0.8, 0.5, 0.7, 0.6]
    assert time_at(0.6, times, qualities) == pytest.approx(1.5)
    # the point at 3 is beaten by the one at 2
    assert time_at(0.75, times, qualities) == pytest.approx(3.0)
    assert time_at(0.8, times, qualities) == pytest.approx(4.0)
    assert (time_at(0.9, times, qualities), time_at(0.4, times, qualities)) == (4.0, 1.0)


@pytest.mark.parametrize("clock", ["cpu", "wall"])
def test_models_are_timed(clock: str) -> None:
    with timed_by(clock):
        taken = encoder_seconds({"small": model_of(8), "large": model_of(48)}, rounds=3)
    assert list(taken) == ["small", "large"] and all(len(each) >= 3 for each in taken.values())


def images_of(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"dataset": ["a", "a", "a", "b"], "boundary_f1": values})


def test_images_are_resampled_alike_for_all_models_and_within_data_sets() -> None:
    draws = resampled({"one": images_of(0.0, 0.3, 0.6, 1.0), "two": images_of(0.1, 0.4, 0.7, 1.0)})
    assert draws["one"].mean() == pytest.approx((0.3 + 1.0) / 2, abs=0.01)
    # the variance of a mean of three, halved by the macro mean
    assert draws["one"].std() == pytest.approx(np.std([0.0, 0.3, 0.6]) / np.sqrt(3) / 2, rel=0.1)
    np.testing.assert_allclose(draws["two"] - draws["one"], 0.05)


def test_comparisons_and_their_table() -> None:
    rows = [
        {"model": "dense", "share": 1.0, "method": "dense", "ms": 10.0, "boundary_f1": 0.8},
        {"model": "time 0.5", "share": 0.5, "method": "time", "ms": 4.0, "boundary_f1": 0.6},
        {"model": "FLOPs 0.5", "share": 0.5, "method": "FLOPs", "ms": 5.0, "boundary_f1": 0.5},
    ]
    more = {"heads": 1, "channels": 2, "flops_paper": 0.5, "predicted_ms": 5.0}
    draws = resampled({row["model"]: images_of(*[row["boundary_f1"]] * 4) for row in rows})
    table = with_comparisons(pd.DataFrame([row | more for row in rows]), draws)
    found = table.loc[1]
    assert found["gain"] == pytest.approx(0.1) and found["gain_lo"] == pytest.approx(0.1)
    # by FLOPs 0.6 is reached a third of the way from (5 ms, 0.5) to (10 ms, 0.8)
    assert found[["ratio", "ratio_lo", "ratio_hi"]].tolist() == pytest.approx([(5 + 5 / 3) / 4] * 3)
    assert table.loc[[0, 2], "ratio"].isna().all()
    text = markdown_of(table, "a CPU", "cpu")
    wanted = "| 50% | time | 1 | 2 | 50.0% | 5.0 | 4.0 | 0.6000 | +0.1000 (+0.1000 … +0.1000) | 1.67 (1.67 … 1.67) |"
    assert wanted in text
