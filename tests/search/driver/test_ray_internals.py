"""A contract: what `search.driver.ray_internals` uses of Ray Tune behaves as expected, on a real run.

If this fails after an update of Ray, mend that module (and `search.nodes.session` for names of variables) first.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.driver import ray_internals as internals
from search.nodes.session import _ENVIRONMENT
from tests.support.studies.searches import wait_until

pytestmark = pytest.mark.usefixtures("local_ray")


class Dying(tune.Trainable):
    """Reports twice; the process dies in the first step of every process but the last."""

    def setup(self, config: dict[str, Any]) -> None:
        self._folder, self._steps = Path(config["folder"]), 0

    def step(self) -> dict[str, Any]:
        deaths = self._folder / "deaths"
        if len(list(self._folder.glob("deaths*"))) < 2:
            deaths.with_name(f"deaths-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self._steps += 1
        return {"phase": "heads", "figures": {"quality": 0.5, "part/one": 1.0}}


class Seen(tune.Callback):
    """Notes what the internals say at each event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.worker: Any = None
        self.error: object = None
        self.last: dict[str, Any] = {}
        self.after: Any = "a worker"

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        assert internals.trial_id_of(trial) == "t0000"
        failures = internals.failures_of(trial)
        self.events.append(("start", failures))
        if failures:
            internals.refund_failure(trial)  # or the second death would be one too many
            assert internals.failures_of(trial) == failures - 1
        self.worker = internals.worker_of(trial)
        internals.send_nothing(self.worker)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.events.append(("complete", internals.failures_of(trial)))
        self.last = internals.last_result_of(trial)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.after = internals.worker_of(trials[0])
        # only now, because Tune copies the file of an error to its storage in its own time
        self.error = internals.error_of(trials[0])


class StopAtOnce(FIFOScheduler):
    """Stops every trial after its first result, and notes what Tune passes on."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.results: list[dict[str, Any]] = []
        self._seen = seen

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.results.append(result)
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        assert internals.trial_id_of(trial) == "t0000"
        self._seen.events.append(("scheduler", internals.failures_of(trial)))


def is_dead(worker: Any) -> bool:
    try:
        ray.get(worker.__ray_ready__.remote(), timeout=60)
    except RayActorError:
        return True
    return False


def test_internals_of_ray_tune(tmp_path: Path) -> None:
    seen = Seen()
    scheduler = StopAtOnce(seen)
    tune.Tuner(
        tune.with_resources(Dying, {"cpu": 1}),
        param_space={"trial_id": "t0000", "folder": str(tmp_path)},
        tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=1),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "ray"),
            callbacks=[seen],
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    # two deaths, one of them refunded; Tune calls the scheduler before the callbacks
    assert seen.events == [("start", 0), ("start", 1), ("start", 1), ("scheduler", 0), ("complete", 0)]
    assert "died" in str(seen.error) and seen.last["phase"] == "heads"
    assert seen.last["done"] is True  # set by Tune, although the trainable reported no such thing
    (result,) = scheduler.results
    assert (result["figures/quality"], result["figures/part/one"]) == (0.5, 1.0)
    assert seen.after is None
    internals.kill_workers([])
    wait_until(lambda: is_dead(seen.worker), 60)


def test_ray_reads_the_variables_that_a_search_sets() -> None:
    folders = [Path(ray.__file__).parent / room for room in ("tune", "train", "air", "_private")]
    unread = set(_ENVIRONMENT) - {"RAY_USAGE_STATS_ENABLED"}
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        text = file.read_text()
        unread -= {name for name in unread if name in text}
    assert not unread
