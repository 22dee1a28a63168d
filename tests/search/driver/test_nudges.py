"""Nudges as workers see them: calls that wait their turn, however many, and change nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from search.driver.watcher import Nudges
from search.nodes.session import Resources, connected


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected(None, Resources()):
        yield


@ray.remote(num_cpus=1)
class Worker:
    def step(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"


class Counting:
    """Stands where an actor's handle does, and counts."""

    def __init__(self) -> None:
        self.nudges = 0
        self.__ray_ready__ = SimpleNamespace(remote=self._count)

    def _count(self) -> None:
        self.nudges += 1


def as_trial(actor: Any, finished: bool = False) -> SimpleNamespace:
    return SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=actor), is_finished=lambda: finished)


@pytest.mark.usefixtures("cluster")
def test_hundreds_of_nudges_neither_disturb_a_step_nor_the_next_one() -> None:
    actor = Worker.remote()
    nudges = Nudges(seconds=0.01)
    step = actor.step.remote(2.0)
    while not ray.wait([step], timeout=0.005)[0]:
        nudges.send([as_trial(actor)])
    assert ray.get([step, actor.step.remote(0.0)], timeout=30) == ["done", "done"]


@pytest.mark.usefixtures("cluster")
def test_a_dead_worker_keeps_no_nudge_from_the_others() -> None:
    dead, alive = Worker.remote(), as_trial(Counting())
    ray.get(dead.step.remote(0.0))
    ray.kill(dead)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:  # the kill is not waited for, and a call sent at once may still be answered
            ray.get(dead.step.remote(0.0), timeout=60)
    nudges = Nudges(seconds=0.0)
    for _ in range(3):
        nudges.send([as_trial(dead), as_trial(None), as_trial(Counting(), finished=True), alive])
    assert alive.temporary_state.ray_actor.nudges == 3


def test_nudges_are_rare() -> None:
    def is_finished() -> bool:
        raise AssertionError("nobody is to be asked yet")

    trial = SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=object()), is_finished=is_finished)
    Nudges(seconds=3600).send([trial])
    with pytest.raises(AssertionError):
        Nudges(seconds=0).send([trial])
