"""Successive halving for several objectives, as a Tune scheduler whose memory is the study's folder (method §14).

A trial reports figures at each of its fidelities: after the refit, after a part of its recovery. The scheduler decides
then whether the trial continues.

    STUDY/trials/<trial_id>/fidelities.json    figures and decision by fidelity, written before Tune learns the decision
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from results.stats.objectives import Objective
from search.base.fidelities import FILE, Showing, read_shown, write_shown
from search.base.phase_keys import EXEMPT, FIDELITY, FIGURES
from search.base.promotion import Quota, continues

logger = logging.getLogger(__name__)


class ParetoHalving(FIFOScheduler):
    """Stops trials that are dominated, or add nothing to those that went on, at their fidelity.

    After a resume it decides as it would have done without the interruption, because every decision is on disk.
    """

    def __init__(self, study: Path, objectives: Sequence[Objective], quota: Quota) -> None:
        """Read the decisions of a study so far.

        Args:
            study: The study's folder.
            objectives: Figures by which trials are compared, with their directions.
            quota: How many trials continue after each fidelity.

        Raises:
            MedcoreError: A file of decisions is damaged.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._study = study
        self._objectives = objectives
        self._quota = quota
        self._shown: dict[str, dict[str, Showing]] = {
            path.parent.name: read_shown(study, path.parent.name) for path in (study / "trials").glob(f"*/{FILE}")
        }

    @property
    def metric(self) -> str:
        """Key of a flat Tune result without which the scheduler has nothing to decide."""
        return f"{FIGURES}/{FIDELITY}"

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide on the figures of one fidelity."""
        prefix = f"{FIGURES}/"
        figures = {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
        decision = self.decide(str(trial.config["trial_id"]), str(result["phase"]), figures)
        return str(TrialScheduler.CONTINUE if decision else TrialScheduler.STOP)

    def decide(self, trial_id: str, fidelity: str, figures: Mapping[str, float]) -> bool:
        """Return whether a trial continues, and write the decision down.

        A trial that continues from disk after a crash reports a fidelity again and gets the same answer.

        Args:
            trial_id: The trial.
            fidelity: Name of the phase that measured the figures.
            figures: Its figures.

        Raises:
            StorageError: The decision cannot be written.
        """
        own = self._shown.setdefault(trial_id, {})
        if fidelity not in own:
            own[fidelity] = Showing(dict(figures), self._next_place(), self._judge(trial_id, fidelity, figures))
            write_shown(self._study, trial_id, own)
        return own[fidelity].continues

    def _next_place(self) -> int:
        return 1 + max((showing.order for shown in self._shown.values() for showing in shown.values()), default=-1)

    def _judge(self, trial_id: str, fidelity: str, figures: Mapping[str, float]) -> bool:
        if figures.get(EXEMPT):
            return True
        if missing := [objective.name for objective in self._objectives if objective.name not in figures]:
            logger.warning("trial %s has no %s at fidelity %s, so it continues", trial_id, ", ".join(missing), fidelity)
            return True
        known = [shown[fidelity] for name, shown in self._shown.items() if fidelity in shown and name != trial_id]
        known.sort(key=lambda showing: showing.order)
        losses = np.array([self._losses(each) for each in (*(showing.figures for showing in known), figures)])
        promoted = np.array([showing.continues for showing in known], dtype=bool)
        exempt = np.array([bool(showing.figures.get(EXEMPT)) for showing in known], dtype=bool)
        return continues(losses, promoted, exempt, self._quota)

    def _losses(self, figures: Mapping[str, float]) -> list[float]:
        """Return one loss per objective; a figure that is missing counts as not finite."""
        return [objective.sign * float(figures.get(objective.name, np.nan)) for objective in self._objectives]
