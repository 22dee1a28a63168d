"""`medcore compare`: the fronts of several studies next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medcore.errors import ConfigError
from results.stats.compare import COST, Candidates, compare_fronts, compared_quality, in_shares_of
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.store.study_info import read_study_info
from results.store.trials import read_images, read_study
from search.tracking.remote import results_folder


def compare(studies: Sequence[str]) -> tuple[list[Candidates], Objective, pd.DataFrame]:
    """Compare the best members of studies' fronts within shares of the FLOPs.

    Args:
        studies: At least two folders or `mlflow:<experiment>/<run>`; the first is what the others are compared with.
            Its dense encoder is what shares of the FLOPs refer to.

    Returns:
        The studies, what is compared, and the table of `compare_fronts`.

    Raises:
        MedcoreError: There are fewer than two studies, one cannot be read or has no front, or they have no quality in
            common.
    """
    if len(studies) < 2:
        raise ConfigError(f"compare: needs at least two studies, got {len(studies)}; name further folders")
    found: list[Candidates] = []
    for study in studies:
        candidates = _candidates(study, {each.name for each in found})
        found.append(in_shares_of(found[0], candidates) if found else candidates)
    quality = compared_quality(found)
    if quality is None:
        raise ConfigError("compare: no objective that is no cost was measured in all studies; compare other studies")
    return found, quality, compare_fronts(found, quality)


def write(studies: Sequence[Candidates], quality: Objective, table: pd.DataFrame, out: Path) -> list[Path]:
    """Write the comparison into a folder; return the files."""
    # imported here, so that a table alone needs no matplotlib
    from results.pages.comparison import write_comparison

    return write_comparison(studies, quality, table, out)


def _candidates(study: str, taken: set[str]) -> Candidates:
    with results_folder(study) as folder:
        info = read_study_info(folder)
        trials = read_study(folder)
        front = front_table(trials, info.objectives)
        if front.empty or COST not in front:
            raise ConfigError(f"{study}: its front is empty; compare studies with finished trials")
        images = read_images(folder, {*front["trial_id"]})
    name = info.name if info.name not in taken else study
    return Candidates(name, trials, images, tuple(info.objectives))
