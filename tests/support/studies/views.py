"""What a saved view of MLflow shows: in a browser, or found by MLflow's own search."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from mlflow import MlflowClient

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: A row of the table: cells by the id of their column.
Cells = dict[str, str]


def state_in(tag: str) -> tuple[str, dict[str, Any]]:
    """Name and state of the saved view that a tag holds, read as MLflow's page reads it."""
    view = json.loads(tag)
    assert isinstance(view["createdAt"], int)
    head, _, packed = view["state"].partition(";")
    assert head == "deflate"
    return view["name"], json.loads(zlib.decompress(base64.b64decode(packed)))


def rows_at(uri: str, link: str, profile: Path) -> list[Cells]:
    """The rows that a link shows: a browser's if there is one, else those that the link's view finds and orders."""
    return _drawn(link, profile) if BROWSER else _found(uri, link)


def _found(uri: str, link: str) -> list[Cells]:
    path, _, query = link.partition("#")[2].partition("?")
    asked, experiment = parse_qs(query), path.split("/")[2]
    assert path == f"/experiments/{experiment}/runs" and asked["workflowType"] == ["machine_learning"]
    client = MlflowClient(uri)
    tags = client.get_experiment(experiment).tags
    _, state = state_in(tags[f"mlflow.sharedViewState.{asked['viewStateShareKey'][0]}"])
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    rows = []
    for run in client.search_runs([experiment], state["searchFilter"], order_by=[order]):
        cells = {"attributes.`Run Name`": run.info.run_name}
        for kind, values in (("metrics", run.data.metrics), ("tags", run.data.tags)):
            cells |= {key: str(value) for name, value in values.items() if (key := f"{kind}.`{name}`")}
        rows.append({key: cells.get(key, "-") for key in ("attributes.`Run Name`", *state["selectedColumns"])})
    return rows


def _drawn(link: str, profile: Path) -> list[Cells]:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1000", "--virtual-time-budget=30000"]
    result = subprocess.run(
        [str(BROWSER), *options, f"--user-data-dir={profile}", "--dump-dom", link],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    table = _Table()
    table.feed(result.stdout)
    assert table.rows, re.sub(r"<[^>]+>", " ", result.stdout)[-2000:]
    return [table.rows[index] for index in sorted(table.rows)]


class _Table(HTMLParser):
    """Reads the cells of MLflow's table of runs, whose rows are drawn in several parts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, Cells] = {}
        self._row: Cells | None = None
        self._cell = ""
        #: Blocks open from the cell inwards; 0 between cells, where the page has text of its own.
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if known.get("role") == "row":
            place = known.get("row-index")
            self._row = None if place is None else self.rows.setdefault(int(place), {})
        if known.get("role") == "gridcell":
            self._cell, self._depth = str(known.get("col-id")), 0
        if tag == "div" and (self._depth or known.get("role") == "gridcell"):
            self._depth += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._depth:
            self._depth -= 1

    def handle_data(self, data: str) -> None:
        # the sample of a run's colour is no text of the cell
        if self._row is not None and self._depth and data.strip() and not re.fullmatch("#[0-9a-f]{6}", data):
            self._row[self._cell] = self._row.get(self._cell, "") + data
