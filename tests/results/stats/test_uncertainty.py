"""Intervals of front members, and the pictures that show them: parallel coordinates, hypervolume over trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from results.plots.front import front_divs, front_figure
from results.plots.panels import panels
from results.plots.parallel import parallel_figure
from results.plots.pictures import hypervolume_picture
from results.stats.intervals import macro_interval, macro_intervals
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.stats.uncertainty import with_intervals
from results.store.trials import read_images, read_with_intervals, write_images
from tests.support.studies.made_trials import DENSE_FLOPS, OBJECTIVES, is_picture, measured, study
from tests.support.studies.rows import write_row, write_study


def test_many_columns_at_once_equal_one_after_the_other() -> None:
    rng = np.random.default_rng(1)
    values, datasets = pd.DataFrame(rng.normal(size=(30, 3)), columns=list("xyz")), pd.Series(["a"] * 11 + ["b"] * 19)
    found = macro_intervals(values, datasets)
    for name in values:
        assert tuple(found.loc[name]) == pytest.approx(macro_interval(values[name], datasets), abs=1e-12)


def test_intervals_belong_to_front_members_alone() -> None:
    trials = study()
    images = measured(trials)
    found = with_intervals(trials, images, OBJECTIVES)
    members = front_table(trials, OBJECTIVES)["trial_id"]
    on = found["trial_id"].isin(members)
    assert np.isfinite(found.loc[on, ["boundary_f1_lo", "boundary_f1_hi", "hd95_lo", "dice_hi"]]).all(axis=None)
    assert found.loc[~on, ["boundary_f1_lo", "hd95_hi"]].isna().all(axis=None)
    assert "flops_lo" not in found and len(found) == len(trials)
    row = found[on].iloc[-1]
    own = images[images["trial_id"] == row["trial_id"]].sort_values(["dataset", "name"])
    assert (row["hd95_lo"], row["hd95_hi"]) == pytest.approx(macro_interval(own["hd95"], own["dataset"]))


def test_without_images_or_with_some_missing() -> None:
    trials = study(20)
    assert with_intervals(trials, pd.DataFrame(columns=["trial_id"]), OBJECTIVES) is trials
    images = measured(trials)
    first = front_table(trials, OBJECTIVES)["trial_id"][0]
    images = images.drop(images.index[images["trial_id"] == first][:1])
    found = with_intervals(trials, images, OBJECTIVES).set_index("trial_id")["hd95_lo"]
    assert np.isnan(found[first]) and found.notna().any()


def test_only_the_images_of_the_front_are_read(tmp_path: Path) -> None:
    write_study(
        tmp_path,
        {"name": "s", "objectives": OBJECTIVES[1:2], "reference": {"boundary_f1": 0.0}}
        | {"dense": {"boundary_f1": 1.0}, "widths": {"heads": 1, "channels": 1}},
    )
    for number, quality in enumerate((0.5, 0.8)):
        row = {"trial_id": f"t{number}", "number": number, "status": "done", "boundary_f1": quality}
        images = [{"dataset": "a", "name": str(i), "boundary_f1": quality + 0.01 * i} for i in range(5)]
        write_images(tmp_path, row["trial_id"], images)
        write_row(tmp_path, row)
    (tmp_path / "trials" / "t0" / "images.parquet").write_bytes(b"never read")
    found = read_with_intervals(tmp_path, OBJECTIVES[1:2])
    assert found["boundary_f1_lo"].notna().tolist() == [False, True]
    assert read_images(tmp_path, {"t1"})["trial_id"].tolist() == ["t1"] * 5


def test_figure_has_error_bars_and_hover_of_the_front() -> None:
    trials = study()
    found = with_intervals(trials, measured(trials), OBJECTIVES)
    figure = front_figure(found, OBJECTIVES)
    barred = [trace for trace in figure.data if trace.error_y.array is not None]
    assert barred and all("on the front" in trace.name for trace in barred)
    assert all("(95 %: " in text for trace in barred for text in trace.text)
    assert "bars: 95 % intervals" in figure.layout.title.text
    view = panels(found, OBJECTIVES)[1][1]
    known = np.isfinite(view.y_error).all(axis=0)
    np.testing.assert_array_equal(known, view.front)
    assert view.y_range[0] <= (view.y - view.y_error[0])[known].min()


def test_parallel_coordinates_put_the_best_on_top() -> None:
    trials = study()
    figure = parallel_figure(trials, OBJECTIVES)
    heights = np.concatenate(
        [np.reshape(trace.y, (-1, len(OBJECTIVES) + 1))[:, :-1] for trace in figure.data]
    )  # (trials, objectives)
    assert len(heights) == len(trials) - 1
    low, high = panels(trials, OBJECTIVES)[1][0].x_range
    assert heights[:, 0].max() == pytest.approx(1 - (100 * trials["flops_fraction"].min() - low) / (high - low))
    assert heights.min() >= -0.03 and heights.max() <= 1.03
    fronts = [trace for trace in figure.data if "on the front" in trace.name]
    assert all(trace.text for trace in fronts) and not any(trace.text for trace in figure.data if trace not in fronts)


def test_hypervolume_over_trials(tmp_path: Path) -> None:
    reference = {"flops": 1.01 * DENSE_FLOPS, "boundary_f1": 0.0, "hd95": 500.0}
    hypervolume_picture(study(), OBJECTIVES, reference, tmp_path / "volume.png")
    assert is_picture(tmp_path / "volume.png")
    with pytest.raises(MedcoreError, match="reference point"):
        hypervolume_picture(study(), OBJECTIVES, reference | {"flops": 1.0}, tmp_path / "none.png")


def test_one_objective_has_no_parallel_coordinates() -> None:
    assert 'id="parallel"' not in front_divs(study(12), [Objective(name="boundary_f1", direction="max")])
    assert 'id="parallel"' in front_divs(study(12), OBJECTIVES)
