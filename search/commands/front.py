"""`medcore front`: a finished or running study, given as a folder or in MLflow, as a table.

Nothing here needs torch, so that a front opens at once.
"""

from __future__ import annotations

from pathlib import Path

from results.store.front import Front, front_of
from results.store.study_info import read_study_info
from results.store.trials import read_with_intervals
from search.tracking.remote import results_folder


def front(study: str) -> Front:
    """Return the Pareto front of a study, with its hypervolume and its members' intervals.

    Args:
        study: Folder or `mlflow:<experiment>/<run>`.

    Raises:
        MedcoreError: There is no such study, or its files are corrupt.
    """
    with results_folder(study) as folder:
        info = read_study_info(folder)
        return front_of(read_with_intervals(folder, info.objectives), info)


def write(study: str, out: Path) -> list[Path]:
    """Write the front as CSV, Markdown and PNG into `out`; return the files."""
    from results.pages.front_files import write_front

    with results_folder(study) as folder:
        info = read_study_info(folder)
        trials = read_with_intervals(folder, info.objectives)
    return write_front(front_of(trials, info), trials, out)
