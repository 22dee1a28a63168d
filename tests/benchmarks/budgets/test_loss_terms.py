"""The table of loss terms: intervals against SciPy, and what it claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.budgets.loss_terms import ARMS, difference, table_of


def test_intervals_are_those_of_the_paired_t_test() -> None:
    values, base = np.random.default_rng(0).normal(size=(2, 5))
    mean, low, high = difference(pd.Series(values), pd.Series(base))
    expected = stats.ttest_rel(values, base).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values - base), expected.low, expected.high))


def test_only_an_interval_without_zero_is_a_claim() -> None:
    changes = {"directional": (0.010, 0.011, 0.012), "lomix": (-0.01, 0.02, 0.01)}
    rows = []
    for arm in ("default", *changes):
        for seed, base in enumerate((0.70, 0.72, 0.71)):
            f1 = base + (changes[arm][seed] if arm in changes else 0)
            rows.append({"arm": arm, "seed": seed, "boundary_f1": f1, "hd95": 12.0 + seed * 0.1, "cpu_s": 30.0})
    lines = table_of(pd.DataFrame(rows)).splitlines()
    assert [line.rsplit("| ", 1)[1] for line in lines[2:]] == ["– |", "boundary_f1 rises |", "no difference shown |"]
    assert "| +0.0110 | +0.0085 … +0.0135 |" in lines[3]
    assert next(iter(ARMS)) == "default"
