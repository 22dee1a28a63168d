"""Studies written by hand, as tracking sees them: a configuration, rows, and phases of trials."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from results.store.trials import write_phases
from tests.support.studies.rows import write_row, write_study

OBJECTIVES = [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]
CONFIG = {
    "study": "s",
    "data": {"folders": ["/data/kvasir"]},
    "search": {"trials": 4, "objectives": OBJECTIVES},
    "tracking": {"uri": "http://me:secret@h:1"},
}


def make_study(folder: Path, points: list[tuple[float, float]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("study: s\nsearch: {trials: 4}\ntracking: {uri: 'http://me:secret@h:1/x@y'}\n")
    reference = {"flops": 101.0, "boundary_f1": 0.0}
    info = {"name": "s", "objectives": OBJECTIVES, "reference": reference}
    write_study(folder, info | {"dense": {"flops": 100.0, "boundary_f1": 0.9}, "widths": {"heads": 3, "channels": 8}})
    for number, (flops, f1) in enumerate(points):
        add_trial(folder, number, flops, f1)
    return folder


def add_trial(folder: Path, number: int, flops: float, f1: float, reason: str | None = None) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    row: dict[str, Any] = {
        "trial_id": f"t{number:04d}",
        "number": number,
        "status": "failed" if reason else "done",
        "reason": reason,
        "seed": 10 + number,
        "origin": "sampled",
        "param/heads/00": 0.5,
        "param/order": "heads_first",
        "started": start.isoformat(),
        "finished": (start + timedelta(seconds=30)).isoformat(),
    }
    if reason is None:
        row |= {"flops": flops, "boundary_f1": f1, "dice/a b": 0.9, "heads": [3, 0, 2], "hd95": float("nan")}
        steps = [{"phase": "heads_recovery", "step": i, "name": "loss", "value": 1 / (i + 1)} for i in range(20)]
        write_phases(folder, row["trial_id"], steps)
    write_row(folder, row)
