"""Every use of Ray Tune's private interface.

`tests/search/driver/test_ray_internals.py` checks each of them on a real run. Ray is pinned below its next minor
version, because any release may change them.
"""

from __future__ import annotations

from typing import Any

import ray


def trial_id_of(trial: Any) -> str:
    """Return our id of a Tune trial.

    `StudySearch.suggest` put it into the trial's configuration.
    """
    return str(trial.config["trial_id"])


def worker_of(trial: Any) -> Any | None:
    """Return the actor that performs an unfinished trial.

    None if the trial has ended or has no actor yet.
    """
    return None if trial.is_finished() else trial.temporary_state.ray_actor


def send_nothing(worker: Any) -> None:
    """Call an actor without effect and without waiting.

    The actor replies after its step.
    """
    worker.__ray_ready__.remote()


def kill_workers(trials: list[Any]) -> None:
    """Kill the actors of all unfinished trials.

    Tune itself would wait ten seconds for each to finish its step.
    """
    for trial in trials:
        if (worker := worker_of(trial)) is not None:
            ray.kill(worker)


def failures_of(trial: Any) -> int:
    """Return how often Tune counts a trial's worker as failed.

    Nodes that were taken away do not count.
    """
    return int(trial.num_failures)


def refund_failure(trial: Any) -> None:
    """Undo one counted failure, so that Tune gives the trial one more try."""
    trial.run_metadata.num_failures -= 1


def last_result_of(trial: Any) -> dict[str, Any]:
    """Return the last result of a trial; empty if it has reported none."""
    return dict(trial.last_result or {})


def error_of(trial: Any) -> object:
    """Return the last error of a trial."""
    return trial.get_error()
