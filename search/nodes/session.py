"""Ray for the length of a job, a cluster's or one of this process's own, and what one task of the job may use."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from medcore.errors import ClusterError, brief
from medcore.registry import plugin_variables
from search.nodes.openmp import waiting
from search.nodes.ports import is_listening, why_unreachable

logger = logging.getLogger(__name__)

#: What nodes call the resources that a trial requests.
NAMES = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
#: Settings of Ray and Tune in the driver's environment, unless the user has set them. They
#: - disable Tune's loggers, snapshots, tables and signal handler, because rows on disk replace them;
#: - keep workers in the driver's folder, because paths in a configuration may be relative;
#: - start workers in parallel, because the searcher limits how many there are; Tune would wait for each one.
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
    """What one trial requests from Ray.

    Attributes:
        cpu: CPU cores.
        gpu: GPUs, or a share of one. It counts only where there are GPUs.
        memory: Bytes; 0 requests none.
    """

    cpu: int = 1
    gpu: float = 0.0
    memory: int = 0


@contextmanager
def connected(address: str | None, resources: Resources) -> Iterator[None]:
    """Use Ray for the length of a job.

    Use this process's running Ray, a cluster, or a new local Ray.

    Args:
        address: The cluster, as the user gave it.
        resources: What one trial requests; its cores become the number of threads of each worker.

    Raises:
        MedcoreError: The address is one of Ray Client, nothing answers there, or this machine lacks what Ray needs.
    """
    with _settings():
        if ray.is_initialized():
            yield
            return
        _start(cluster_address(address), resources)
        try:
            yield
        finally:
            ray.shutdown()


def _start(address: str | None, resources: Resources) -> None:
    """Connect this process to the cluster at `address`.

    None starts a Ray of this process's own.
    """
    if address and address.startswith("ray://"):
        raise ClusterError(
            f"{address}: a job must start on a node of the cluster (give HOST:PORT or auto), or by "
            "`medcore cluster submit`"
        )
    if address and (reason := why_unreachable(address)) is not None:
        raise ClusterError(reason)
    variables = {f"{name}_NUM_THREADS": str(resources.cpu) for name in ("OMP", "MKL", "OPENBLAS")}
    # workers of a cluster inherit the environment of their node, not of this process
    variables |= waiting() | plugin_variables()
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": variables},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(address="local", num_cpus=max(cores(), resources.cpu), include_dashboard=False, **common)
    except (OSError, RayError, ValueError, RuntimeError) as error:
        raise ClusterError(f"cannot {'reach' if address else 'start'} Ray {_where(address)}{_reason(error)}") from None


def _where(address: str | None) -> str:
    return f"at {address}: " if address else "on this machine: "


def _reason(error: Exception) -> str:
    """Return why Ray does not start, with a remedy for what the machine lacks.

    Ray keeps sockets and logs in the temporary folder, and its token in the home folder.
    """
    text, file = brief(error, last=200), str(getattr(error, "filename", None) or "")
    temporary, home = tempfile.gettempdir(), os.environ.get("HOME")
    if "AF_UNIX path" in str(error):
        return f"TMPDIR {temporary} is too long for its sockets; set TMPDIR to a short folder such as /tmp"
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "it finds no home folder for its token; set HOME to a folder that you can write"
    if isinstance(error, ConnectionError) or not isinstance(error, OSError):
        return text
    if home and Path(file).is_relative_to(home):
        return f"{file} cannot be used ({error.strerror}); set HOME to a folder that you can write, or mend this one"
    if Path(file).is_relative_to(temporary):
        return f"{file} cannot be used ({error.strerror}); set TMPDIR to a short folder that you can write"
    return f"{text}; make TMPDIR ({temporary}) and HOME ({home or 'not set'}) folders that you can write"


@contextmanager
def _settings() -> Iterator[None]:
    """Apply `_ENVIRONMENT` and silence Tune's logger for the length of a block."""
    tune = logging.getLogger("ray.tune")
    with ExitStack() as stack:
        for name, value in _ENVIRONMENT.items():
            if name not in os.environ:
                os.environ[name] = value
                stack.callback(os.environ.pop, name, None)
        stack.callback(tune.setLevel, tune.level)
        tune.setLevel(logging.CRITICAL)
        yield


def cluster_address(given: str | None) -> str | None:
    """Return where the cluster is.

    This is `given`, else `RAY_ADDRESS`, else None for a Ray of this process's own.
    """
    return given or os.environ.get("RAY_ADDRESS")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def request(resources: Resources) -> dict[str, float]:
    """Return what one trial, or one process of a training, requests from Ray, by kind.

    There is no GPU in it if the cluster has none.
    """
    wanted: dict[str, float] = {"cpu": resources.cpu}
    if resources.gpu > 0 and ray.cluster_resources().get("GPU", 0) > 0:  # type: ignore[no-untyped-call]
        wanted["gpu"] = resources.gpu
    if resources.memory:
        wanted["memory"] = resources.memory
    return wanted


def room(wanted: Mapping[str, float], without: Collection[str] = ()) -> int:
    """Return how many jobs the nodes hold at once.

    Args:
        wanted: What each job requests, by kind.
        without: Ids of nodes that do not count.
    """
    nodes = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without)  # type: ignore[no-untyped-call]
    return sum(places(node["Resources"], wanted) for node in nodes)


def places(has: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Return how many jobs a node with the resources `has` holds at once.

    Each job requests `wanted`.
    """
    return min(int(has.get(NAMES[kind], 0) / amount + 1e-9) for kind, amount in wanted.items())


def at_once(resources: Resources) -> int:
    """Return how many jobs run at the same time on the nodes that there are now; 1 without any, or without Ray."""
    return max(1, room(request(resources))) if ray.is_initialized() else 1


def fitting(wanted: Mapping[str, float]) -> int:
    """Return how many trials the nodes hold at once.

    Raises:
        MedcoreError: No node holds even one.
    """
    count = room(wanted)
    if count == 0:
        names = ", ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
        raise ClusterError(
            f"no node of the Ray cluster has {names} for a trial; lower cpus_, gpus_ or memory_per_trial"
        )
    return count


def dead_nodes() -> set[str]:
    """Return the ids of nodes that were part of the cluster and are gone."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}  # type: ignore[no-untyped-call]


@contextmanager
def watching_head(command: str, seconds: float = 10.0) -> Iterator[None]:
    """Check every few seconds whether the head answers.

    If it does not, warn the user while this process still can.

    Args:
        command: What the user types to continue.
        seconds: Time between two checks.
    """
    address = ray.get_runtime_context().gcs_address
    ended = threading.Event()

    def watch() -> None:
        missed = 0
        while not ended.wait(seconds):
            missed = 0 if is_listening(address) else missed + 1
            if missed == 2:
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
