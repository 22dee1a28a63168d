"""A Tune scheduler that writes a row for each trial that it stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import TrialScheduler

from search.base.schedulers import SCHEDULERS, SchedulerSettings
from search.driver.ray_internals import last_result_of, trial_id_of
from search.trials.phase_result import is_last

#: Called with the id of a trial that stops and its last phase.
OnStop = Callable[[str, str], None]


def make_scheduler(settings: SchedulerSettings) -> TrialScheduler | None:
    """Return the configured scheduler; None lets all trials run to their end.

    Raises:
        MedcoreError: There is no scheduler of this name.
    """
    return SCHEDULERS[settings.name](settings)


class RecordingScheduler(TrialScheduler):
    """Passes Tune's events on to another scheduler.

    It calls `on_stop` for each trial that the other scheduler stops.

    Tune tells the scheduler before the searcher and the callbacks, so these find the row that `on_stop` writes.
    Results without the metric, which most phases report, never reach the other scheduler.
    """

    def __init__(self, scheduler: TrialScheduler, on_stop: OnStop) -> None:
        """Wrap `scheduler`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._scheduler = scheduler
        self._on_stop = on_stop

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return the other scheduler's decision."""
        if self._scheduler.metric not in result:
            return str(TrialScheduler.CONTINUE)
        return str(self._scheduler.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record a trial that stops while it runs; a trial that ends by itself reports so."""
        if not is_last(result):
            self._on_stop(trial_id_of(trial), result.get("phase", "its start"))
        self._scheduler.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Record a trial that stops while it is paused."""
        self._on_stop(trial_id_of(trial), last_result_of(trial).get("phase", "its start"))
        self._scheduler.on_trial_remove(tune_controller, trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Pass on that a trial is new, or starts again after its worker died."""
        self._scheduler.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass on that a trial's worker died."""
        self._scheduler.on_trial_error(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the trial that the other scheduler chooses."""
        return self._scheduler.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Return the other scheduler's text."""
        return str(self._scheduler.debug_string())

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, because Tune's own restore is not used."""

    def restore(self, checkpoint_path: str) -> None:
        """Load nothing."""
