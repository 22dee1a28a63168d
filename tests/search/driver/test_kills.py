"""A search that is killed in each of its phases ends as one that nothing disturbs, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.campaign.check import comparable, differences
from results.store.trials import read_phases
from search.trials.ledger import all_issued
from tests.support.studies.study_files import environment, write_tiny_study

#: One dies in a job, a trial while it is refit, looked at, judged, and recovers before and after its pause at step 2.
POINTS = (
    "profile",
    "teacher",
    "t0001 refit",
    "t0001 look",
    "t0001 refit continues",
    "t0001 step 1",
    "t0001 step 5",
    "t0002 part continues",
    "t000[45] refit stops",
    "t0006 step 4",
)

#: Costs alone decide, so the second knapsack beats most sampled trials on any machine.
SECTIONS: dict[str, Any] = {
    "data": {"search_per_dataset": 4, "recovery_per_dataset": 8},
    "scoring": {"part_size": 4},
    "recovery": {"steps": 6, "save_every": 1},
    "tracking": {"kind": "files"},
    "search": {
        "trials": 8,
        "sampler": "tpe",
        "scheduler": "halving",
        "finalists": 0.25,
        "scheduler_images": 2,
        "leverage_images": 0,
        "objectives": [{"name": "flops", "direction": "min"}, {"name": "encoder_params", "direction": "min"}],
        "warm_starts": {"knapsack": [0.6, 0.4, 0.8], "uniform": []},
    },
}


def searched(folder: Path) -> tuple[Path, Path]:
    """Run the search twice, the second time with a death at each point; return the studies' folders."""
    places = [folder / "quiet", folder / "killed"]
    for place in places:
        place.mkdir()
    configs = [str(write_tiny_study(place, **SECTIONS)) for place in places]
    program = [sys.executable, "-m", "tests.support.studies.killed_search", *configs, *POINTS]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    quiet, killed = (place / "runs" / "tiny" for place in places)
    return quiet, killed


def decisions(study: Path) -> dict[str, Any]:
    """What the scheduler saw and decided, by trial."""
    return {path.parent.name: json.loads(path.read_text()) for path in study.glob("trials/*/fidelities.json")}


def series(study: Path) -> list[list[dict[str, Any]]]:
    """Losses and errors of refits of each trial."""
    return [
        [point for point in read_phases(study, trial.trial_id) if point["phase"] != "system"]
        for trial in all_issued(study)
    ]


def test_a_search_killed_in_every_phase_has_the_results_of_an_undisturbed_one(tmp_path: Path) -> None:
    quiet, killed = searched(tmp_path)
    rows = comparable(quiet)
    assert differences(rows, comparable(killed)) == []
    assert decisions(quiet) == decisions(killed)
    assert all_issued(quiet) == all_issued(killed)
    assert series(quiet) == series(killed)
    # the points were where they should be
    states = [row["status"] for row in rows.values()]
    assert states[:4] == ["done"] * 4 and "stopped" in states[4:6]
    *sampled, repeat, average = all_issued(quiet)
    assert not any(trial.is_finalist for trial in sampled)
    assert [*average.averages] == [repeat.repeats, repeat.trial_id]
    assert {"fidelity/refit/flops", "fidelity/part/flops"} < rows["t0001"].keys()
