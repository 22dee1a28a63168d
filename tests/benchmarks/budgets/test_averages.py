"""The table of averaged recoveries: intervals against SciPy, and groups that are measured once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.budgets.averages import Study, interval, measured, table_of
from search.base.config import load_config
from tests.support.studies.study_files import write_tiny_study


def test_intervals_are_those_of_the_one_sample_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.002, size=5)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    text = f"{differences.mean():+.4f} ({expected.low:+.4f} to {expected.high:+.4f})"
    assert interval(pd.Series(differences)) == text


def test_groups_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(load_config(write_tiny_study(tmp_path)), steps=1)
    rows = measured(study, [0.3], 2, tmp_path / "work")
    assert (rows[["single", "average_2", "average_4", "long"]].stack().between(0, 1)).all()
    monkeypatch.setattr(Study, "group", None)
    pd.testing.assert_frame_equal(measured(study, [0.3], 2, tmp_path / "work"), rows)
    assert table_of(rows).splitlines()[-1].startswith("| 1 | 30% | 2 | ")
