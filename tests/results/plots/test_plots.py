"""Pictures: what is drawn, in which units, self-contained, and readable back as images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.errors import MedcoreError
from results.plots.front import front_figure, save_front_html, save_front_png
from results.plots.panels import NothingToDraw, origin_kind, panels, view_range
from results.plots.pictures import budget_picture
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.store.study_info import FamilyTitle, study_info
from tests.support.studies.made_trials import BLOCKS, CHANNELS, HEADS, OBJECTIVES, is_picture, study

INFO = study_info(
    {
        "name": "polyps",
        "objectives": [],
        "reference": {},
        "dense": {},
        "widths": {"heads": HEADS, "channels": CHANNELS},
    }
)


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


def test_the_dense_model_after_recovery_is_a_line_across() -> None:
    df = study()
    _, views = panels(df, OBJECTIVES)
    dense = df[df["origin"] == "dense"].iloc[0]
    assert [view.dense_y for view in views] == [dense["boundary_f1"], dense["hd95"]]
    lines = [
        trace for trace in front_figure(df, OBJECTIVES).data if trace.name == "dense model after the same recovery"
    ]
    assert [tuple(line.y) for line in lines] == [(view.dense_y,) * 2 for view in views]
    assert [tuple(line.x) for line in lines] == [view.x_range for view in views]
    by_cost = [OBJECTIVES[1], OBJECTIVES[0]]  # a line at a cost would say nothing
    assert panels(df, by_cost)[1][0].dense_y is None
    without = df[df["origin"] != "dense"]
    assert all(view.dense_y is None for view in panels(without, OBJECTIVES)[1])
    assert not any("recovery" in trace.name for trace in front_figure(without, OBJECTIVES).data)


def test_repeated_trials_are_said_to_be_means() -> None:
    df = study(20).assign(seeds=1, **{"seed_sd/boundary_f1": np.nan})
    assert "means" not in front_figure(df, OBJECTIVES).layout.title.text
    df.loc[0, ["seeds", "seed_sd/boundary_f1"]] = [3, 0.01]
    figure = front_figure(df, OBJECTIVES)
    assert "repeated trials at their means" in figure.layout.title.text
    texts = [text for trace in figure.data for text in trace.text or ()]
    marked = [text for text in texts if "mean of 3 runs" in text]
    assert len(marked) == 2 and all("95 % over seeds: " in text for text in marked)
    assert not any("over seeds" in text for text in texts if text not in marked)


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
    budget_picture(front, tmp_path / "budgets.png", INFO)
    assert is_picture(tmp_path / "budgets.png")
    with pytest.raises(NothingToDraw, match="records its budget"):
        budget_picture(front.drop(columns="heads"), tmp_path / "none.png", INFO)


def test_budget_picture_has_a_panel_for_each_family(tmp_path: Path) -> None:
    families = [{"name": name, "title": name.title()} for name in ("heads", "channels", "cross")]
    widths = {"heads": HEADS, "channels": [CHANNELS] * BLOCKS, "cross": [8, 4]}
    front = front_table(study(), OBJECTIVES)
    front["cross"] = [[3, 4]] * len(front)
    sizes = []
    for count in (1, 3):
        info = INFO.model_copy(update={"families": tuple(FamilyTitle(**each) for each in families[:count])})
        budget_picture(front, tmp_path / f"{count}.png", info.model_copy(update={"widths": widths}))
        with Image.open(tmp_path / f"{count}.png") as picture:
            sizes.append(picture.width)
    assert sizes[1] > 1.5 * sizes[0]


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
