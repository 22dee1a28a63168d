"""A study written by hand in which trials are repeated, one fails and one is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results.store.trials import write_images
from tests.support.studies.rows import write_row, write_study

INFO: dict[str, Any] = {
    "name": "s",
    "objectives": [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}],
    "reference": {"flops": 101.0, "boundary_f1": 0.0},
    "dense": {"flops": 100.0, "boundary_f1": 0.78},
    "widths": {"heads": 4, "channels": 8},
}
#: FLOPs, Boundary F1 of each run in order. The first runs of t0000, t0001 and t0002 make a front, which the mean of
#: t0001 leaves.
FIRST = {"t0000": (100.0, 0.80), "t0001": (50.0, 0.70), "t0002": (40.0, 0.69), "t0003": (60.0, 0.60)}
REPEATS = {"t0006": ("t0001", 0.60), "t0007": ("t0001", 0.65), "t0008": ("t0002", 0.71), "t0009": ("t0000", 0.82)}
MEANS = {"t0000": 0.81, "t0001": 0.65, "t0002": 0.70, "t0003": 0.60}


def write_repeated_study(folder: Path, repeats: bool = True) -> Path:
    """Write the study with its images, with or without the repeats; return its folder."""
    write_study(folder, INFO)
    for trial_id, (flops, quality) in FIRST.items():
        _write(folder, trial_id, flops, quality, origin="dense" if trial_id == "t0000" else "sampled")
    write_row(folder, {"trial_id": "t0004", "number": 4, "status": "failed", "reason": "out of memory"})
    fidelities = {"fidelity/refit/flops": 10.0, "fidelity/refit/boundary_f1": 0.95}
    write_row(folder, {"trial_id": "t0005", "number": 5, "status": "stopped", "reason": "stopped", **fidelities})
    if repeats:
        for trial_id, (first, quality) in REPEATS.items():
            flops, _ = FIRST[first]
            _write(folder, trial_id, flops, quality, origin=f"repeat of {first}", repeats=first)
        failed = {"trial_id": "t0010", "number": 10, "status": "failed", "reason": "killed", "repeats": "t0002"}
        write_row(folder, failed)
    return folder


def _write(folder: Path, trial_id: str, flops: float, quality: float, **more: Any) -> None:
    row = {"trial_id": trial_id, "number": int(trial_id[1:]), "status": "done", "flops": flops, "seconds": 10.0}
    row |= {"flops_fraction": flops / 100, "boundary_f1": quality, "heads": [4, 2], "channels": [8, 2]}
    write_images(folder, trial_id, _images(quality))
    write_row(folder, row | {"seed": int(trial_id[1:])} | more)


def _images(quality: float) -> list[dict[str, Any]]:
    """Rows of images whose macro mean is the quality."""
    steps = (-0.05, 0.0, 0.05)
    return [
        {"dataset": dataset, "name": f"i{place}", "boundary_f1": quality + step}
        for dataset in ("a", "b")
        for place, step in enumerate(steps)
    ]
