"""Why a trial's checkpoint is not there: removed because of `search.keep`, or lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medcore.errors import MedcoreError
from search.base.sections.search import KEEP_FRONT
from search.study.saved import saved_values


def why_gone(study: Path, checkpoint: Path, trial_id: str) -> str:
    """Return one line on a checkpoint that is gone.

    Args:
        study: The study's folder.
        checkpoint: The file that is not there.
        trial_id: Its trial.
    """
    if removes_weights(study):
        return (
            f"{checkpoint}: the weights of trial {trial_id} were removed, because it was off the front and the study "
            f"has search.keep: {KEEP_FRONT}; its figures are kept; choose a member of the front"
        )
    return f"{checkpoint}: the checkpoint of trial {trial_id} is gone; choose another trial"


def removes_weights(study: Path) -> bool:
    """Tell whether a study's configuration lets the search remove weights off the front.

    A study without a readable configuration does not say so.
    """
    try:
        search = saved_values(study).get("search")
    except MedcoreError:
        return False
    return isinstance(search, Mapping) and search.get("keep") == KEEP_FRONT
