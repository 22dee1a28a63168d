"""Run a schedule and keep what its phases lead to: states on disk, losses, errors of refits, times."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from medcore.models.sam import MedSam
from medcore.training.recovery import RecoveryFile, RecoveryLog
from medcore.training.refit.refit import RefitLog
from medcore.training.schedule import Inputs, PhaseEnd, Schedule, Scorer, State, run_phases
from search.base.device import best_device
from search.trials.attempt import Attempt
from search.trials.files import PHASE_CHECKPOINT, RECOVERY_STATE
from search.trials.meter import Meter, PhasePoint
from search.trials.phase_file import History, load_state, save_state

logger = logging.getLogger(__name__)

#: Stage of the meter for each kind of phase.
_STAGES = {"score": "scoring", "cut": "pruning", "round": "pruning", "refit": "refit", "recovery": "recovery"}


@dataclass
class Recorder:
    """Keeps what the phases of a schedule lead to.

    The default keeps only the history, and nothing on disk.

    Attributes:
        file: Gets the state after each phase.
        within: Keeps the state within recoveries.
        attempt: The start of the trial that is running. Nothing is written once another one counts.
        meter: Measures the stages `scoring`, `pruning`, `refit`, `recovery` and `saving`.
        history: Losses, errors of refits, and what went wrong.
    """

    file: Path | None = None
    within: RecoveryFile | None = None
    attempt: Attempt | None = None
    meter: Meter = field(default_factory=Meter)
    history: History = field(default_factory=History)

    @classmethod
    def in_folder(cls, folder: Path, save_every: int, attempt: Attempt | None, meter: Meter) -> Recorder:
        """Return a recorder that keeps its files in a trial's folder.

        Args:
            folder: Made if it is absent.
            save_every: Recovery steps between two saves; 0 saves after phases only.
            attempt: The start of the trial that is running.
            meter: Measures the stages.
        """
        folder.mkdir(parents=True, exist_ok=True)
        within = RecoveryFile(folder / RECOVERY_STATE, save_every)
        return cls(folder / PHASE_CHECKPOINT, within, attempt, meter)

    def resume(self) -> State | None:
        """Return the state after the last recorded phase.

        Take up its history. Return None if no phase is recorded.
        """
        if self.file is None or not self.file.is_file():
            return None
        state, self.history = load_state(self.file)
        return state

    def record(self, end: PhaseEnd) -> None:
        """Record the end of a phase; of a pause, the time only.

        Raises:
            Superseded: The trial was started again elsewhere. Nothing is written.
            StorageError: A file cannot be written.
        """
        self.meter.mark(_STAGES[end.phase.kind])
        if end.paused:
            return
        if end.log is not None:
            self._note_recovery(end.phase.name, end.log)
        if end.refit is not None:
            self._note_refit(end.phase.name, end.refit)
        if self.attempt is not None:
            self.attempt.check()
        if self.file is not None:
            save_state(self.file, end.state, self.history)
        if self.within is not None:
            self.within.remove()
        self.meter.mark("saving")

    def _note_recovery(self, phase: str, log: RecoveryLog) -> None:
        self.history.points += [PhasePoint(phase, step, "loss", loss) for step, loss in enumerate(log.losses)]
        self._note(phase, log.steps, log.notes(phase))

    def _note_refit(self, phase: str, log: RefitLog) -> None:
        """Record the errors of each branch, and what went wrong."""
        for step, branch in enumerate(log.branches):
            for name, error in (("refit_error_before", branch.before), ("refit_error_after", branch.after)):
                if isfinite(error):
                    self.history.points.append(PhasePoint(phase, step, name, error))
        self._note(phase, len(log.branches), log.notes(phase))

    def _note(self, phase: str, step: int, notes: Mapping[str, str]) -> None:
        for event, note in notes.items():
            logger.warning("%s", note)
            self.history.points.append(PhasePoint(phase, step, event, 1.0))
            self.history.notes.append(note)


def recorded_phases(
    schedule: Schedule,
    state: State,
    inputs: Inputs,
    seed: int,
    score: Scorer | None = None,
    recorder: Recorder | None = None,
) -> Iterator[PhaseEnd]:
    """Run the remaining phases of a schedule on the best device.

    Record and yield the end of each.

    Args:
        schedule: What to cut and how to recover.
        state: Where to start.
        inputs: What refits and recoveries learn from.
        seed: Seed of the whole schedule.
        score: Scores a model; needed if the schedule scores again after its first round.
        recorder: Keeps what the phases lead to.

    Yields:
        The end of each phase, after it is recorded.

    Raises:
        Superseded: The trial was started again elsewhere.
    """
    recorder = recorder or Recorder()
    state = dataclasses.replace(state, model=state.model.to(best_device()))
    for end in run_phases(schedule, state, inputs, seed, score=score, file=recorder.within):
        recorder.record(end)
        yield end


def run_recorded(
    schedule: Schedule,
    state: State,
    inputs: Inputs,
    seed: int,
    score: Scorer | None = None,
    recorder: Recorder | None = None,
) -> tuple[MedSam, History]:
    """Run `recorded_phases` to the end.

    Return the model, on the best device, and the history.
    """
    recorder = recorder or Recorder()
    for end in recorded_phases(schedule, state, inputs, seed, score=score, recorder=recorder):
        state = end.state
    return state.model, recorder.history
