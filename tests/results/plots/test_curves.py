"""The picture of predicted losses: whole files only, families without curves left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.errors import MedcoreError
from results.plots import curves as module
from results.plots.curves import save_curves
from results.plots.panels import NothingToDraw
from tests.support.helpers import TINY
from tests.support.toy.arch import Toy

TOY = Toy()
#: The last of a site's curve is 0, which a logarithmic axis cannot show.
CURVES = tuple(np.geomspace(1e3, 1e-3, site.width + 1) * np.r_[np.ones(site.width), 0] for site in TINY.sites)


def test_one_panel_a_family(tmp_path: Path) -> None:
    path = tmp_path / "made" / "curves.png"
    save_curves(CURVES, TINY, path)
    with Image.open(path) as picture:
        assert picture.width == 200 * 8.4
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_families_that_cannot_be_refit_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    draw = module._draw
    monkeypatch.setattr(
        module, "_draw", lambda ax, family, *rest: (titles.append(family.name), draw(ax, family, *rest))
    )
    curves = tuple(np.append(np.full(site.width, np.inf if site.output is None else 2.0), 0.0) for site in TOY.sites)
    save_curves(curves, TOY, tmp_path / "curves.png")
    assert titles == ["toy_heads", "hidden"]


def test_nothing_to_draw_and_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(NothingToDraw, match="no site has a curve"):
        save_curves(tuple(curve * np.inf for curve in map(np.ones_like, CURVES)), TINY, tmp_path / "curves.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="cannot be written"):
        save_curves(CURVES, TINY, tmp_path / "file" / "curves.png")
