"""The front's page in a real browser: points, tooltip and an empty error console."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.plots.front import save_front_html
from results.stats.pareto import front_table
from results.stats.uncertainty import with_intervals
from tests.support.studies.made_trials import OBJECTIVES, measured, study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome to open the page with")

#: Writes what plotly has drawn, and its label of the first point on the front, where `--dump-dom` finds it.
PROBE = """
<pre id="probe"></pre><script>window.addEventListener("load", () => {
  const graph = document.getElementById("front");
  const drawn = graph._fullData.map((trace, i) => ({name: trace.name, axis: trace.yaxis, index: i,
    x: graph.calcdata[i].map(point => point.x), y: graph.calcdata[i].map(point => point.y)}));
  const first = drawn.find(trace => trace.name.endsWith("on the front"));
  Plotly.Fx.hover(graph, [{curveNumber: first.index, pointNumber: 0}]);
  const label = graph.querySelector(".hoverlayer").textContent;
  document.getElementById("probe").textContent = JSON.stringify({drawn, label,
    lines: document.querySelectorAll("#parallel .scatterlayer .trace").length,
    points: graph.querySelectorAll(".scatterlayer path.point").length});
});</script>
"""


def opened(page: Path) -> tuple[dict[str, Any], list[str]]:
    """What the probe wrote, and what the page said on the console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=10000"]
    result = subprocess.run(
        [str(BROWSER), *options, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="probe">(.+?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stderr[-2000:]
    return json.loads(html.unescape(found[1])), [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_draws_the_table(tmp_path: Path) -> None:
    trials = study(40)
    trials = with_intervals(trials, measured(trials), OBJECTIVES)
    page = tmp_path / "front.html"
    save_front_html(trials, OBJECTIVES, page)
    page.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    seen, console = opened(page)
    assert console == []
    table = front_table(trials, OBJECTIVES)
    for axis, metric in (("y", "boundary_f1"), ("y2", "hd95")):
        members = [each for each in seen["drawn"] if each["axis"] == axis and each["name"].endswith("on the front")]
        points = sorted((x, y) for each in members for x, y in zip(each["x"], each["y"], strict=True))
        np.testing.assert_allclose(points, sorted(zip(100 * table["flops_fraction"], table[metric], strict=True)))
    done = int((trials["status"] == "done").sum())
    # both panels draw a ring and every finished trial, less those that subtitle and view leave outside
    assert done <= seen["points"] - 2 <= 2 * done and seen["lines"] >= 2
    assert any(trial_id in seen["label"] for trial_id in table["trial_id"]) and "95 %" in seen["label"]
