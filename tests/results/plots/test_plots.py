"""Pictures: what is drawn, in which units, self-contained, and readable back as images."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.errors import MedcoreError
from results.plots.front import front_figure, save_front, save_front_html, save_front_picture
from results.plots.panels import NothingToDraw, origin_kind, panels, view_range
from results.plots.pictures import budget_picture
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.stats.select import choose
from results.store.study_info import FamilyTitle, study_info
from tests.support.studies.made_trials import BLOCKS, CHANNELS, DENSE_FLOPS, HEADS, OBJECTIVES, is_picture, study

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
        np.testing.assert_allclose(view.x, 100 * shown["flops"] / DENSE_FLOPS)
        np.testing.assert_allclose(view.y, shown[name])
        assert view.x_title == "FLOPs left (% of dense) — lower is better"
        assert int(view.front.sum()) == len(front_table(df, OBJECTIVES))
        assert (np.diff(view.step_x) > 0).all()
    assert (np.diff(views[0].step_y) > 0).all() and (np.diff(views[1].step_y) < 0).all()
    assert views[0].y_title == "Boundary F1 — higher is better" and views[1].y_title == "HD95 (px) — lower is better"
    assert views[1].hidden == 1 and views[1].y_range[1] < 410  # the broken trial does not flatten the picture


def test_an_axis_says_which_flops_it_counts() -> None:
    df = study().assign(flops_paper=1.0)
    by_paper = [Objective(name="flops_paper", direction="min"), OBJECTIVES[1]]
    (view,) = panels(df, by_paper)[1]
    assert view.x_title == "FLOPs left by the paper's count (% of dense) — lower is better"
    # a table of an earlier version, or one with a gap, has no share for every trial
    for gaps in (df.drop(columns="flops_fraction"), df.assign(flops_fraction=[None, *df["flops_fraction"][1:]])):
        (view, _) = panels(gaps, OBJECTIVES)[1]
        assert view.x_title == "Encoder FLOPs (GFLOPs) — lower is better"
        np.testing.assert_allclose(view.x, gaps["flops"][:-1] / 1e9)
    (view,) = panels(df.drop(columns="flops_paper_fraction"), by_paper)[1]
    assert view.x_title.startswith("Encoder FLOPs by the paper's count (")


def test_the_knee_is_that_of_the_rule() -> None:
    df = study()
    chosen = choose(df, OBJECTIVES, "knee")
    shown, views = panels(df, OBJECTIVES)
    assert all(view.knee is not None and shown["trial_id"][view.knee] == chosen["trial_id"] for view in views)
    assert [view.knee_label[1] for view in views] == [1, -1]  # towards the better end of each axis
    rings = [trace for trace in front_figure(df, OBJECTIVES).data if trace.name == "knee"]
    assert [trace.text[0] for trace in rings] == [f"knee: {chosen['trial_id']}"] * 2
    assert [(trace.x[0], trace.y[0]) for trace in rings] == [(view.x[view.knee], view.y[view.knee]) for view in views]
    assert panels(df, OBJECTIVES[1:2])[1][0].knee is None  # one objective has a best trial and no knee


def test_words_at_the_knee_stay_in_view() -> None:
    view = panels(study(), OBJECTIVES)[1][0]
    left, right = (dataclasses.replace(view, x=np.full(len(view.x), at)) for at in view.x_range)
    assert left.knee_label[0] == 1 and right.knee_label[0] == -1


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
    row = df.iloc[0]
    assert text.splitlines() == [text] and text.split("<br>") == [
        f"<b>{row['trial_id']} · dense</b>",
        "FLOPs left 100.0%, by the paper's count 100.0%",
        f"Boundary F1: {row['boundary_f1']:.4g}",
        f"HD95: {row['hd95']:.4g} px",
        f"heads: {sum(row['heads'])} kept, {HEADS} to {HEADS} a block",
        f"channels: {sum(row['channels'])} kept, {CHANNELS} to {CHANNELS} a block",
    ]
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
    assert sum("mean of 3 runs" in text for text in texts) == 2


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
    save_front_picture(study(), objectives, tmp_path / "front.png")
    assert is_picture(tmp_path / "front.png")


def test_equal_fronts_are_equal_files(tmp_path: Path) -> None:
    first, second = (save_front(study(20), OBJECTIVES, tmp_path / name, "A & B") for name in ("one", "two"))
    assert [file.name for file in first] == ["front.html", "front.png", "front.svg"]
    for one, other in zip(first[1:], second[1:], strict=True):
        assert one.read_bytes() == other.read_bytes()
    words = first[2].read_text()
    assert words.startswith("<?xml") and "<svg" in words and "<dc:date>" not in words


def test_a_single_trial_without_origin_is_drawn(tmp_path: Path) -> None:
    save_front_picture(study(12).drop(columns="origin").head(1), OBJECTIVES, tmp_path / "front.png")
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
    assert origin_kind("average of t0001") == "average"


def test_view_keeps_what_must_be_seen() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    nothing, last = np.zeros(5, bool), np.array([False] * 4 + [True])
    assert view_range(values, nothing)[1] < 5 and view_range(values, last)[1] > 100
    assert view_range(np.array([3.0]), np.array([True])) == pytest.approx((2.85, 3.15))
