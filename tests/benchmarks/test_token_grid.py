from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.sizes.token_grid import METRICS, largest_side, paper_flops, summary_of, text_of, ways
from tests.support.helpers import TINY


def test_every_way_fits_the_budget() -> None:
    budget = 0.3 * paper_flops(TINY, 64)
    found = ways(TINY, 0.3, [48])
    assert [way.name for way in found] == ["widths", "both, 48 px", "side, 32 px"]
    for way in found[:2]:
        assert way.share * paper_flops(TINY, way.side) == pytest.approx(budget)
    assert paper_flops(TINY, largest_side(TINY, budget)) <= budget < paper_flops(TINY, 40)


def test_differences_are_paired_by_image_and_means_over_seeds() -> None:
    rows = [
        {"fraction": 0.1, "steps": 0, "way": way, "seed": seed, "dataset": dataset, "name": name}
        | dict.fromkeys(METRICS, 0.5 + gain + 0.1 * seed + place / 10)
        | {"flops_paper": 10, "flops": 30}
        for way, gain in (("widths", 0.0), ("side", 0.02))
        for seed in range(2)
        for dataset, count in (("one", 1), ("two", 3))
        for place, name in enumerate("abc"[:count])
    ]
    summary = summary_of(pd.DataFrame(rows), {"flops_paper": 100, "flops": 100}).set_index("way")
    # data sets count alike: means of 0.5 and 0.6, and half of the seeds' difference
    assert summary.loc["widths", "boundary_f1"] == pytest.approx(0.55 + 0.05)
    assert summary.loc["side", "boundary_f1_less"] == pytest.approx(0.02)
    # the same gain on every image leaves no doubt
    assert summary.loc["side", "hd95_low"] == pytest.approx(0.02)
    assert (summary["flops_paper"] == 0.1).all() and (summary["seeds"] == 2).all()
    assert "| 10% | 0 | side | 2 |" in text_of(summary.reset_index())
