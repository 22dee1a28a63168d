"""Contact sheets: which boundary is wrong, worst images first, a bounded number of rows and bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from medcore.errors import MedcoreError
from medcore.quality.metrics import all_metrics
from results.plots.contact_sheet import Case, boundary_error, contact_sheet


def square(start: int, stop: int, side: int = 40) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[start:stop, start:stop] = True
    return mask


def case(name: str, shift: int, side: int = 40) -> Case:
    """A noisy image whose pruned prediction is `shift` pixels off; with a shift of -1 it finds nothing."""
    truth = square(10, 20, side)
    pruned = np.roll(truth, shift, axis=1) if shift >= 0 else np.zeros_like(truth)
    image = np.random.default_rng(len(name)).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Case("set", name, image, truth, truth, pruned, all_metrics(truth, truth), all_metrics(pruned, truth))


def test_boundary_error_is_what_lies_beyond_the_tolerance() -> None:
    truth = square(10, 20)
    assert not any(error.any() for error in boundary_error(truth, truth))
    assert not any(error.any() for error in boundary_error(np.roll(truth, 2, axis=1), truth))
    missed, false = boundary_error(np.roll(truth, 5, axis=1), truth)
    # upright edges have nothing within 2 px, the level ones overlap from column 15 to 19
    assert missed[13:17, [10, 19]].all() and not missed[:, 13:18].any()
    assert false[13:17, [15, 24]].all() and not false[:, 17:22].any()


@pytest.mark.parametrize("empty_is_truth", [True, False])
def test_boundary_error_of_an_empty_mask(empty_is_truth: bool) -> None:
    full, empty = square(10, 20), np.zeros((40, 40), dtype=bool)
    missed, false = boundary_error(full, empty) if empty_is_truth else boundary_error(empty, full)
    whole = 4 * 10 - 4
    assert (missed.sum(), false.sum()) == ((0, whole) if empty_is_truth else (whole, 0))


def test_worst_first_and_no_more_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(Axes, "set_ylabel", lambda self, label, **_: drawn.append(label.splitlines()[-1]))
    cases = [case("near", 1), case("missed", -1), case("far", 9), case("middle", 4)]
    contact_sheet(cases, tmp_path / "sheet.png", "title", rows=3)
    assert drawn == ["missed", "far", "middle"]


def test_the_file_keeps_its_size(tmp_path: Path) -> None:
    cases = [case(f"a long name of an image {i}", i - 1, 300) for i in range(4)]
    contact_sheet(cases, tmp_path / "sheet.png", "t001: 20 % of the FLOPs", max_bytes=120_000)
    assert (tmp_path / "sheet.png").stat().st_size <= 120_000
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.height > 200 and np.asarray(picture.convert("L")).std() > 5


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="at least one image"):
        contact_sheet([], tmp_path / "sheet.png", "t")


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Matplotlib takes what stands between dollar signs for a formula, and fails on most."""
    contact_sheet([case(r"a$\bad$", 2)], tmp_path / "sheet.png", r"study $\worse$")
    assert (tmp_path / "sheet.png").is_file()
