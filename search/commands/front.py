"""`medcore front`: a finished or running study, given as a folder or in MLflow, as a table.

Nothing here needs torch, so that a front opens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError
from results.stats.pareto import front_table, hypervolume, to_losses
from results.store.files import plain_record
from results.store.trials import StudyInfo, read_study_info
from search.tracking.remote import open_results, results_folder

#: What is shown of a trial where it was measured.
_NUMBERS = ("flops_fraction", "flops_paper_fraction", "encoder_params_fraction", "dice")


def front(study: str) -> dict[str, Any]:
    """The Pareto front as records, with hypervolume, counts and the dense model's metrics."""
    return front_of(*open_results(study))


def front_of(trials: pd.DataFrame, info: StudyInfo) -> dict[str, Any]:
    """`front` of results that are read already; columns that trials have beyond their rows are kept."""
    objectives = info["objectives"]
    names = [objective["name"] for objective in objectives]
    directions = [objective["direction"] for objective in objectives]
    done = trials[trials["status"] == "done"]
    table = front_table(done, objectives)
    for row in table.to_dict("records"):
        lacking = [name for name in ("heads", "channels") if not _is_budget(row.get(name))]
        lacking += ["origin"] if not isinstance(row.get("origin"), str) else []
        lacking += [name for name in _NUMBERS if isinstance(row.get(name), str)]
        if lacking:
            raise MedcoreError(f"trial {row['trial_id']} has no {', '.join(lacking)}: no search wrote this row")
    reference = to_losses([[info["reference"][name] for name in names]], directions)[0]
    volume = hypervolume(to_losses(table[names].to_numpy(dtype=float), directions), reference) if len(table) else 0.0
    return {
        "study": info["name"],
        "objectives": objectives,
        "reference": info["reference"],
        "hypervolume": volume,
        "trials": len(trials),
        "failed": int((trials["status"] == "failed").sum()) if len(trials) else 0,
        "dense": info["dense"],
        "widths": info["widths"],
        "front": [plain_record(row) for row in table.to_dict("records")],
    }


def _is_budget(value: Any) -> bool:
    """What each block has kept: numbers."""
    return isinstance(value, Sequence) and all(isinstance(count, (int, float)) for count in value)


def write(study: str, out: Path) -> list[Path]:
    """The front as CSV, Markdown and PNG in the folder `out`; returns the files."""
    from results.pages.front_files import write_front
    from results.store.trials import read_with_intervals

    with results_folder(study) as folder:
        info = read_study_info(folder)
        trials = read_with_intervals(folder, info["objectives"])
    return write_front(front_of(trials, info), trials, out)
