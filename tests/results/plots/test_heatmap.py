"""The heat map of scores: blocks of unequal width, whole files only, no side effect on who draws too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.errors import MedcoreError
from results.plots.heatmap import save_score_heatmaps
from tests.support.helpers import TINY
from tests.support.studies.study_files import environment

HEADS = (np.array([1.0, 2.0, 3.0]), np.array([4.0]), np.array([]), np.array([1.0, 2.0]))
SCORES = (*HEADS, np.arange(1.0, 49.0), np.array([]), np.arange(1.0, 9.0), np.array([3.0]))


def test_blocks_of_unequal_width(tmp_path: Path) -> None:
    path = tmp_path / "made" / "scores.png"
    save_score_heatmaps({"medcore": SCORES, "michel": SCORES}, TINY, path)
    with Image.open(path) as picture:
        assert picture.width == 2000
    assert [file.name for file in path.parent.iterdir()] == ["scores.png"]


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="cannot be written"):
        save_score_heatmaps({"medcore": SCORES}, TINY, tmp_path / "file" / "scores.png")


def test_the_callers_backend_is_left_alone() -> None:
    script = """
import sys, matplotlib
matplotlib.use("svg")
import results.plots.heatmap
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("svg False\n", "")
