"""What goes wrong, when and for how long: drawn from a seed, and done to a cluster from outside."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.campaign.cluster import Cluster
from benchmarks.campaign.machines import Machine, Program, SetupError
from benchmarks.campaign.processes import Process
from benchmarks.campaign.storage import Disk

KINDS = {
    "worker": "kill -9 of a trial's process",
    "node": "a worker node is lost, a new one joins later",
    "raylet": "kill -9 of a worker node's raylet, a new node joins later",
    "network": "a worker node is cut off for a while",
    "driver": "kill -9 of `medcore search`",
    "gcs": "kill -9 of the head's GCS, which `medcore search` has to notice",
    "head": "the head node is lost, and `medcore search` with it",
    "tracking": "kill -9 of the MLflow server, started again later",
    "full": "no space left on the study's disk for a while",
    "readonly": "the study's disk is read-only for the worker nodes for a while",
    "stalled": "the MLflow server stands still for a while (SIGSTOP); only where asked for by name",
}
#: Those that rounds draw. Another one would change what every seed draws, and the published rounds with it.
DRAWN = [kind for kind in KINDS if kind != "stalled"]

#: Some must last longer to matter: Ray takes half a minute to give up a node that is cut off, a search ten seconds
#: to give up a request to MLflow.
_LASTS = {"network": 8, "stalled": 4}


@dataclass(frozen=True)
class Fault:
    """`rows`, `delay`: struck when that many rows exist and so many seconds more have passed.

    `seconds`: until it is repaired. `pick`: which of several targets, from 0 to 1.
    """

    kind: str
    rows: int
    delay: float
    seconds: float
    pick: float


def draw(seed: int, number: int, trials: int, exactly: Sequence[str] = ()) -> list[Fault]:
    """The faults of round `number`: `exactly` these kinds, or one kind in turn and up to two more.

    Kinds take turns in an order of their own for each cycle, so that all of them are met equally often.
    """
    rng = random.Random(f"{seed}/{number}")
    cycle, place = divmod(number - 1, len(DRAWN))
    turn = random.Random(f"{seed}/cycle {cycle}").sample(DRAWN, len(DRAWN))[place]
    kinds = list(exactly) or [turn, *rng.choices(DRAWN, k=rng.choice([0, 0, 1, 1, 2]))]
    faults = [
        Fault(
            kind,
            rng.randrange(trials * 4 // 5),
            rng.uniform(0, 1),
            _LASTS.get(kind, 1) * rng.uniform(2, 10),
            rng.random(),
        )
        for kind in kinds
    ]
    return sorted(faults, key=lambda fault: fault.rows)


Target = TypeVar("Target")

#: Repairs what was done, when its time has come; None if there is nothing to repair.
Repair = Callable[[], None] | None


class NotNow(Exception):
    """There is nothing to strike at the moment."""


def strike(fault: Fault, cluster: Cluster, disk: Disk, driver: Program) -> Repair:
    """Do it. Raises `NotNow` if its target is not there yet."""
    match fault.kind:
        case "worker":
            _pick(fault, cluster.trial_processes()).kill()
            return None
        case "node":
            cluster.lose(_pick(fault, cluster.workers))
            return cluster.heal
        case "raylet":
            _pick(fault, [raylet for node in cluster.workers for raylet in node.processes("raylet/raylet")]).kill()
            return cluster.heal
        case "network":
            node = _pick(fault, cluster.workers)
            node.unplug()
            return lambda: _plug_in(node)
        case "driver":
            driver.kill()
            return None
        case "gcs":
            _pick(fault, cluster.head.processes("gcs_server")).kill()
            return None
        case "head":
            cluster.head.kill()
            return None
        case "tracking":
            cluster.kill_server()
            return cluster.start_server
        case "stalled":
            return _stand_still(cluster.server.processes())
        case "full":
            disk.fill()
            return disk.free
        case "readonly":
            return _read_only(list(cluster.workers), disk)
    raise ValueError(fault.kind)


def _pick(fault: Fault, targets: Sequence[Target]) -> Target:
    if not targets:
        raise NotNow
    return targets[int(fault.pick * len(targets))]


def _plug_in(node: Machine) -> None:
    if node.alive:
        node.plug_in()


def _stand_still(processes: Sequence[Process]) -> Repair:
    if not processes:
        raise NotNow
    for process in processes:
        process.signal(signal.SIGSTOP)

    def repair() -> None:
        for process in processes:
            process.signal(signal.SIGCONT)

    return repair


def _read_only(nodes: Sequence[Machine], disk: Disk) -> Repair:
    """A node that is writing a file just now cannot be changed: it is tried again, as long as none has been."""
    changed = []
    for node in nodes:
        with suppress(SetupError):
            node.remount(disk.place, "ro")
            changed.append(node)
    if not changed:
        raise NotNow

    def repair() -> None:
        for node in changed:
            if node.alive:
                node.remount(disk.place, "rw")

    return repair
