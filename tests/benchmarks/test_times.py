"""The benchmark of the times of knapsack budgets, on a tiny study."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sizes.times import budgets, measured, report
from medcore.budgets.prices import linear_prices
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study


def test_budgets_meet_their_shares_and_every_model_has_its_times(tmp_path: Path) -> None:
    specs = budgets(write_tiny_study(tmp_path), (0.3, 0.6))
    prices = linear_prices(TINY, "flops_paper")
    shares = [prices.total(spec) / prices.dense for spec in specs.values()]
    assert 0.2 < shares[0] <= 0.3 < shares[1] <= 0.6
    records = measured(specs, (1,))
    assert [record.trial_id for record in records] == ["0.3", "0.6"]
    lines = report(records).splitlines()
    assert len([line for line in lines if line.startswith("| 0.")]) == 2
