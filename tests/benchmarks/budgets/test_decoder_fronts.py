"""The cases of the benchmark of decoder fronts, and its table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.budgets.decoder_fronts import Case, changed, markdown
from medcore.quality.latency import Latency
from medcore.quality.timing import timing_of
from search.base.config import load_config
from tests.support.studies.study_files import write_tiny_study


@pytest.mark.parametrize(
    ("arm", "share", "parts", "drop", "cost"),
    [
        ("encoder", 0.3, ("encoder",), (), "call_flops"),
        ("both", 0.3, ("encoder", "decoder"), ("masks", "iou"), "call_flops"),
        ("both", 1.0, ("encoder", "decoder"), (), "call_flops"),
        ("decoder", 0.5, ("decoder",), ("masks", "iou"), "decoder_flops"),
    ],
)
def test_each_case_is_a_configuration(
    arm: str, share: float, parts: tuple[str, ...], drop: tuple[str, ...], cost: str, tmp_path: Path
) -> None:
    config = changed(load_config(write_tiny_study(tmp_path)), Case(arm, share, 3))
    assert (config.seed, config.model.parts, config.model.drop) == (3, parts, drop)
    assert config.budget.shares == {cost: share}


def test_the_table_has_means_over_seeds_and_times_of_the_first() -> None:
    figures = {"call_flops_fraction": 0.2, "flops_fraction": 0.14, "decoder_flops_fraction": 1.0, "hd95": 12.0}
    rows = pd.DataFrame([{"arm": "encoder", "share": 0.2, "boundary_f1": each, **figures} for each in (0.70, 0.74)])
    timing = timing_of([0.05] * 20, [0.05] * 20)
    found = dict.fromkeys(("dense", "encoder-0.2-0"), Latency(timing, timing, 0))
    *_, dense, line = markdown(rows, found).splitlines()
    assert dense.endswith("| 50.0 (50.0–50.0) |")
    assert line == ("| encoder | 20% | 20.0% | 14.0% | 100.0% | 0.7200 (0.7000–0.7400) | 12.00 | 50.0 (50.0–50.0) |")
