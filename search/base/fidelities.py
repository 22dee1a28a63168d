"""What a scheduler saw of the trials of a study, and what it decided (method §14).

STUDY/trials/<trial_id>/fidelities.json    figures and decision by fidelity
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from results.store.files import is_finite, read_json, write_json
from results.store.trials import trial_folder
from search.base.phase_keys import EXEMPT, FIDELITY

logger = logging.getLogger(__name__)

FILE = "fidelities.json"


@dataclass(frozen=True)
class Showing:
    """What one trial showed at one fidelity.

    Attributes:
        figures: Figures by name.
        order: Place among all decisions of the study, from 0.
        continues: The decision.
    """

    figures: Mapping[str, float]
    order: int
    continues: bool


def read_shown(study: Path, trial_id: str) -> dict[str, Showing]:
    """Return what a trial showed at its fidelities so far.

    Raises:
        MedcoreError: The file is damaged.
    """
    path = trial_folder(study, trial_id) / FILE
    if not path.is_file():
        return {}
    try:
        content = read_json(path, "delete it")
        return {str(fidelity): _showing(fields) for fidelity, fields in content.items()}
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise MedcoreError(f"{path}: corrupt; delete it, and the trial is judged again") from None


def shown_figures(study: Path, trial_id: str) -> dict[str, float]:
    """Return the figures of a trial at its fidelities, as `FIDELITY/NAME` (see `TrialRow.fidelities`).

    A damaged file is named in a warning and counts as empty, because the trial itself has come to its end.
    """
    try:
        found = read_shown(study, trial_id)
    except MedcoreError as error:
        logger.warning("%s", error)
        found = {}
    shown = sorted(found.items(), key=lambda item: item[1].order)
    return {
        f"{fidelity}/{name}": value
        for fidelity, showing in shown
        for name, value in showing.figures.items()
        if name not in (FIDELITY, EXEMPT)
    }


def write_shown(study: Path, trial_id: str, shown: Mapping[str, Showing]) -> None:
    """Write a trial's figures and decisions by rename.

    Raises:
        StorageError: The file cannot be written.
    """
    content = {
        fidelity: {"figures": dict(showing.figures), "order": showing.order, "continues": showing.continues}
        for fidelity, showing in shown.items()
    }
    write_json(trial_folder(study, trial_id) / FILE, content)


def _showing(fields: Mapping[str, Any]) -> Showing:
    figures = {str(name): float(value) for name, value in fields["figures"].items() if is_finite(value)}
    if not isinstance(fields["continues"], bool):
        raise ValueError("continues")
    return Showing(figures, int(fields["order"]), fields["continues"])
