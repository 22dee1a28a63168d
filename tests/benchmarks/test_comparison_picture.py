"""The picture of methods side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.comparison_picture import comparison_png
from medcore.errors import MedcoreError
from tests.support.studies.made_trials import is_picture


def test_comparison_with_bands_and_a_level(tmp_path: Path) -> None:
    share = np.array([0.5, 0.15, 0.3])
    curve = pd.DataFrame({"flops_paper_fraction": share, "boundary_f1": share, "hd95": 9 - share})
    band = curve.assign(boundary_f1_lo=share - 0.1, boundary_f1_hi=share + 0.1)
    dense = pd.DataFrame({"flops_paper_fraction": [1.0], "boundary_f1": [0.7], "hd95": [8.0]})
    curves = {"searched": band, "uniform": curve, "dense": dense}
    comparison_png(curves, ["boundary_f1", "hd95"], tmp_path / "methods.png")
    assert is_picture(tmp_path / "methods.png")
    with pytest.raises(MedcoreError, match="at least one method"):
        comparison_png({}, ["dice"], tmp_path / "none.png")
