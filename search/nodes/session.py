"""Ray for the length of a job: a cluster's, or one of this process's own; and what one task of it may use."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from medcore.errors import MedcoreError

#: What nodes call the resources that a trial asks for.
NAMES = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
#: Tune's own bookkeeping is off where rows on disk do the same: loggers, snapshots, tables, its signal handler. Workers
#: keep the driver's folder, because paths in a configuration may be relative, and get ready side by side: how many, the
#: searcher says; Tune itself would begin with the next one when the last is ready.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Resources:
    """Of one trial. `gpu` may be a fraction, and counts only where there are GPUs. `memory`: bytes; 0 asks for none."""

    cpu: int = 1
    gpu: float = 0.0
    memory: int = 0


@contextmanager
def connected(address: str | None, resources: Resources) -> Iterator[None]:
    """A Ray for the length of a job: the one this process already has, a cluster's, or one of its own.

    Raises:
        MedcoreError: the address is one of Ray Client, or nothing answers there.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    address = cluster_address(address)
    if address and address.startswith("ray://"):
        raise MedcoreError(
            f"{address}: a job must start on a node of the cluster (give HOST:PORT or auto), or by "
            "`medcore cluster submit`"
        )
    if address and re.fullmatch(r".+:\d+", address) and not answers(address):  # Ray itself would wait for many minutes
        raise MedcoreError(
            f"cannot reach Ray at {address}: nothing listens there; start the cluster or mend the address"
        )
    threads = {f"{name}_NUM_THREADS": str(resources.cpu) for name in ("OMP", "MKL", "OPENBLAS")}
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": threads},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(address="local", num_cpus=max(cores(), resources.cpu), include_dashboard=False, **common)
    except (ConnectionError, RayError, ValueError) as error:
        raise MedcoreError(f"cannot reach Ray at {address or 'this machine'}: {one_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def cluster_address(given: str | None) -> str | None:
    """Where the cluster is: what was given, else `RAY_ADDRESS`, else None for a Ray of this process's own."""
    return given or os.environ.get("RAY_ADDRESS")


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def request(resources: Resources) -> dict[str, float]:
    """What one trial, or one process of a training, asks Ray for: no GPU where the cluster has none."""
    wanted: dict[str, float] = {"cpu": resources.cpu}
    if resources.gpu > 0 and ray.cluster_resources().get("GPU", 0) > 0:  # type: ignore[no-untyped-call]
        wanted["gpu"] = resources.gpu
    if resources.memory:
        wanted["memory"] = resources.memory
    return wanted


def room(wanted: Mapping[str, float], without: Collection[str] = ()) -> int:
    """How many jobs, each of which wants that much, the nodes hold at once; `without`: ids of nodes not to count."""
    nodes = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without)  # type: ignore[no-untyped-call]
    return sum(places(node["Resources"], wanted) for node in nodes)


def places(has: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many jobs, each of which wants that much, a node with these resources holds at once."""
    return min(int(has.get(NAMES[kind], 0) / amount + 1e-9) for kind, amount in wanted.items())


def fitting(wanted: Mapping[str, float]) -> int:
    """How many trials the nodes hold at once. Raises `MedcoreError` if none holds even one."""
    count = room(wanted)
    if count == 0:
        names = ", ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
        raise MedcoreError(
            f"no node of the Ray cluster has {names} for a trial; lower cpus_, gpus_ or memory_per_trial"
        )
    return count


def dead_nodes() -> set[str]:
    """Ids of nodes that were part of the cluster and are gone."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}  # type: ignore[no-untyped-call]


def one_line(error: object) -> str:
    """The last line of an error that says something, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error or "unknown reason"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


logger = logging.getLogger(__name__)


@contextmanager
def watching_head(command: str, seconds: float = 10.0) -> Iterator[None]:
    """Ask the head every few seconds whether it is there, and say how to go on while this process still can.

    `command`: what the user types then.
    """
    address = ray.get_runtime_context().gcs_address
    ended = threading.Event()

    def watch() -> None:
        silent = 0
        while not ended.wait(seconds):
            silent = 0 if answers(address) else silent + 1
            if silent == 2:
                logger.warning(
                    "the head of the Ray cluster (%s) does not answer; without it Ray ends this search within a "
                    "minute. Nothing that is finished is lost; go on with: %s",
                    *(address, command),
                )

    thread = threading.Thread(target=watch, name="medcore-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def answers(address: str, patience: float = 5.0) -> bool:
    """Whether something listens at HOST:PORT; not where that is no address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=patience):
            return True
    except (OSError, OverflowError, UnicodeError):  # the latter: of a port above 65535, of a name that none can have
        return False
