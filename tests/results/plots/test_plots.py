"""Pictures: what is drawn, in which units, self-contained, and readable back as images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medcore.errors import MedcoreError
from results.plots.front import front_figure, save_front_html, save_front_png
from results.plots.panels import origin_kind, panels, view_range
from results.plots.pictures import budget_picture, comparison_png
from results.stats.pareto import Objective, front_table

OBJECTIVES = [
    Objective(name="flops", direction="minimize"),
    Objective(name="boundary_f1", direction="maximize"),
    Objective(name="hd95", direction="minimize"),
]
DENSE_FLOPS, BLOCKS, HEADS, CHANNELS = 972.08e9, 12, 12, 3072


def study(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """A made-up study: quality falls with the FLOPs taken, faster for the rule, with a few broken trials."""
    rng = np.random.default_rng(seed)
    starts = [("dense", 1.0)] + [
        (f"{kind} {share}", share) for share in (0.5, 0.3, 0.15) for kind in ("uniform", "rule")
    ]
    rows = []
    for number in range(n):
        origin, share = starts[number] if number < len(starts) else ("sampled", float(rng.uniform(0.08, 0.95)))
        loss = {"rule": 0.5, "unif": 0.38, "dens": 0.0}.get(origin[:4], 0.3 + 0.1 * rng.exponential())
        quality = 0.9 - loss * (1 - share) ** 2.5 + 0.004 * rng.normal()
        budget = np.clip(share * rng.uniform(0.6, 1.4, (2, BLOCKS)), 0, 1) if share < 1 else np.ones((2, BLOCKS))
        rows.append(
            {
                "trial_id": f"{rng.integers(16**8):08x}",
                "number": number,
                "status": "done",
                "origin": origin,
                "flops": share * DENSE_FLOPS,
                "flops_paper_fraction": share,
                "boundary_f1": quality,
                "hd95": 4 + 45 * (0.92 - quality) * rng.uniform(0.8, 1.2),
                "dice": quality + 0.05,
                "heads": [int(count) for count in np.round(HEADS * budget[0])],
                "channels": [int(count) for count in np.round(CHANNELS * budget[1])],
            }
        )
    frame = pd.DataFrame(rows)
    frame.loc[n - 1, ["status", "boundary_f1", "hd95"]] = ["failed", np.nan, np.nan]
    frame.loc[n - 2, ["boundary_f1", "hd95"]] = [0.02, 410.0]
    return frame


def is_picture(path: Path) -> bool:
    """A PNG of a sensible size with something on it, and no half-written neighbour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return min(pixels.shape) > 300 and float(pixels.std()) > 5 and not list(path.parent.glob("*.tmp"))


def test_panels_show_the_first_objective_against_each_other_in_axis_units() -> None:
    df = study()
    shown, views = panels(df, OBJECTIVES)
    assert len(shown) == len(df) - 1 and len(views) == 2  # the failed trial is not drawn
    for view, name in zip(views, ("boundary_f1", "hd95"), strict=True):
        np.testing.assert_allclose(view.x, shown["flops"] / 1e9)
        np.testing.assert_allclose(view.y, shown[name])
        assert view.x_title == "Encoder FLOPs (GFLOPs) — lower is better"
        assert int(view.front.sum()) == len(front_table(df, OBJECTIVES))
        assert (np.diff(view.step_x) > 0).all()
    assert (np.diff(views[0].step_y) > 0).all() and (np.diff(views[1].step_y) < 0).all()
    assert views[0].y_title == "Boundary F1 — higher is better" and views[1].y_title == "HD95 (px) — lower is better"
    assert views[1].hidden == 1 and views[1].y_range[1] < 410  # the broken trial does not flatten the picture


def test_figure_marks_every_origin_and_front_membership() -> None:
    df = study()
    figure = front_figure(df, OBJECTIVES, "A & B")
    names = {trace.name for trace in figure.data}
    assert {"front of the two axes", "searched, dominated", "searched, on the front"} <= names
    kinds = {trace.marker.symbol for trace in figure.data if trace.mode == "markers"}
    assert kinds == {"circle", "square", "diamond", "star"}
    drawn = sum(len(trace.x) for trace in figure.data if trace.mode == "markers")
    assert drawn == 2 * (len(df) - 1)
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert len(legend) == len(set(legend))
    text = next(trace for trace in figure.data if trace.name.startswith("dense")).text[0]
    assert df["trial_id"][0] in text and "flops: 972.1G FLOPs" in text and "heads:" in text and "hd95: " in text
    assert "A &amp; B" in figure.layout.title.text


def test_page_needs_no_network_and_is_whole(tmp_path: Path) -> None:
    save_front_html(study(20), OBJECTIVES, tmp_path / "deep" / "front.html")
    page = (tmp_path / "deep" / "front.html").read_text()
    assert page.rstrip().endswith("</html>") and 1e6 < len(page) < 1e7
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)


def test_hover_escapes_markup() -> None:
    df = study(10).assign(origin="<img src=x>")
    assert "<img" not in json.dumps(front_figure(df, OBJECTIVES).to_plotly_json(), default=str)


@pytest.mark.parametrize("objectives", [OBJECTIVES, OBJECTIVES[:2], OBJECTIVES[1:2]])
def test_front_png(tmp_path: Path, objectives: list[Objective]) -> None:
    save_front_png(study(), objectives, tmp_path / "front.png")
    assert is_picture(tmp_path / "front.png")


def test_a_single_trial_without_origin_is_drawn(tmp_path: Path) -> None:
    save_front_png(study(12).drop(columns="origin").head(1), OBJECTIVES, tmp_path / "front.png")
    assert is_picture(tmp_path / "front.png")


def test_budget_picture(tmp_path: Path) -> None:
    front = front_table(study(), OBJECTIVES)
    budget_picture(front, tmp_path / "budgets.png", num_heads=HEADS, mlp_dim=CHANNELS)
    assert is_picture(tmp_path / "budgets.png")
    with pytest.raises(MedcoreError, match="records its budget"):
        budget_picture(front.drop(columns="heads"), tmp_path / "none.png")


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


def test_nothing_to_draw() -> None:
    with pytest.raises(MedcoreError, match="no trial"):
        front_figure(study(12).assign(status="failed"), OBJECTIVES)


def test_origin_kinds() -> None:
    origins = ["uniform 0.5", "rule 0.5/0.7", "dense", "sampled", "magnitude 0.5", None, float("nan"), ""]
    kinds = ["uniform", "rule", "dense", "sampled", "other", "sampled", "sampled", "sampled"]
    assert [origin_kind(origin) for origin in origins] == kinds


def test_view_keeps_what_must_be_seen() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    nothing, last = np.zeros(5, bool), np.array([False] * 4 + [True])
    assert view_range(values, nothing)[1] < 5 and view_range(values, last)[1] > 100
    assert view_range(np.array([3.0]), np.array([True])) == pytest.approx((2.85, 3.15))
