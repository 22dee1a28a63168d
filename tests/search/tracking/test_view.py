"""The page that shows a study's front in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.stats.objectives import Objective
from search.tracking.note import own_uri
from search.tracking.view import front_page, link_line, view_state, view_tag
from tests.support.studies.views import state_in

OBJECTIVES = [Objective("boundary_f1", "max"), Objective("flops", "min"), Objective("hd95", "min")]


def test_the_view_is_ordered_by_the_first_objective_and_shows_the_figures_that_are_no_costs() -> None:
    state = view_state("run7", OBJECTIVES)
    assert state["orderByKey"] == "metrics.`boundary_f1`" and state["orderByAsc"] is False
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'run7' and tags.`medcore.front` = 'true'"
    assert state["selectedColumns"] == [
        *("metrics.`flops_fraction`", "metrics.`boundary_f1`", "metrics.`hd95`", "metrics.`latency_ms`"),
        *("tags.`medcore.knee`", "tags.`medcore.origin`"),
    ]
    assert set(state["selectedColumns"]) < set(state["columnOrder"]) == set(state["columnWidths"])


def test_a_tag_holds_the_view_as_mlflow_packs_it() -> None:
    state = view_state("run7", OBJECTIVES)
    name, unpacked = state_in(view_tag("polyps", state, created=5))
    assert name == "front of polyps" and unpacked == state


@pytest.mark.parametrize("uri", ["http://me:secret@h:5000/", "https://h/prefix"])
def test_a_link_leads_to_the_server_without_a_login(uri: str) -> None:
    page = front_page("3", "0123456789abcdef")
    assert page == "#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=medcore-0123456789ab"
    place = {"http://me:secret@h:5000/": "http://h:5000/", "https://h/prefix": "https://h/prefix/"}[uri]
    assert link_line(uri, page) == f"front in MLflow: {place}{page}"


def test_of_a_file_the_line_says_how_to_open_it(tmp_path: Path) -> None:
    line = link_line(own_uri(tmp_path / "my study"), front_page("1", "ab"))
    assert line.startswith("front in MLflow: http://127.0.0.1:5000/#/experiments/1/runs?") and "\n" not in line
    assert line.endswith(f"after: mlflow ui --backend-store-uri 'sqlite:///{tmp_path}/my study/mlflow.db'")
