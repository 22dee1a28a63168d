"""Keep-alive calls of workers: any number of them wait their turn and change no state."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from search.driver.keep_alive import KeepAlive

pytestmark = pytest.mark.usefixtures("local_ray")


@ray.remote(num_cpus=1)
class Worker:
    def step(self, until: Path | None = None) -> str:
        """End when the file exists."""
        while until is not None and not until.exists():
            time.sleep(0.01)
        return "done"


class Counting:
    """Stands where an actor's handle does, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.__ray_ready__ = SimpleNamespace(remote=self._count)

    def _count(self) -> None:
        self.calls += 1


def as_trial(actor: Any, finished: bool = False) -> SimpleNamespace:
    return SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=actor), is_finished=lambda: finished)


def test_hundreds_of_calls_neither_disturb_a_step_nor_the_next_one(tmp_path: Path) -> None:
    actor = Worker.remote()
    keep_alive = KeepAlive(seconds=0.0)
    step = actor.step.remote(tmp_path / "end")
    for _ in range(300):
        keep_alive.send([as_trial(actor)])
    assert not ray.wait([step], timeout=0.1)[0]
    (tmp_path / "end").touch()
    assert ray.get([step, actor.step.remote()], timeout=60) == ["done", "done"]
    ray.kill(actor)


def test_a_dead_worker_keeps_no_call_from_the_others() -> None:
    dead, alive = Worker.remote(), as_trial(Counting())
    ray.get(dead.step.remote())
    ray.kill(dead)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:  # the kill is not waited for, and a call sent at once may still be answered
            ray.get(dead.step.remote(), timeout=60)
    keep_alive = KeepAlive(seconds=0.0)
    for _ in range(3):
        keep_alive.send([as_trial(dead), as_trial(None), as_trial(Counting(), finished=True), alive])
    assert alive.temporary_state.ray_actor.calls == 3


def test_calls_are_rare() -> None:
    def is_finished() -> bool:
        raise AssertionError("it is too early")

    trial = SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=object()), is_finished=is_finished)
    KeepAlive(seconds=3600).send([trial])
    with pytest.raises(AssertionError):
        KeepAlive(seconds=0).send([trial])
