"""Jobs over images: cut into shards, resumable, and shared out over Ray's workers if Ray runs.

A job's result is one file, FILE.safetensors. While the job is not finished, FILE.parts holds a file for each shard.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayError

from medcore.errors import ClusterError, MedcoreError, brief
from medcore.files import locked
from medcore.scoring.fisher import Progress
from results.store.files import make_folder
from search.base.device import pin_threads
from search.nodes.session import Resources, fitting, request


class Saved(Protocol):
    """A result that can write itself to a file."""

    def save(self, path: Path) -> None:
        """Write the file by rename."""


T = TypeVar("T", bound=Saved)


@dataclass(frozen=True)
class Shard:
    """A piece of a job that one process computes.

    Attributes:
        file: What the process writes.
        images: Number of images in it.
        arguments: The shard's own arguments of the function that computes it.
    """

    file: Path
    images: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """How the shards of a job are computed.

    Attributes:
        name: Name of the job in messages.
        write: Module-level function that computes one shard and writes `file`. It takes `file`, `progress` (or None),
            the common arguments and the shard's own.
        common: Arguments that all shards share.
        resources: What one shard may use.
    """

    name: str
    write: Callable[..., None]
    common: Mapping[str, Any]
    resources: Resources


def kept_result(path: Path, load: Callable[[Path], T], compute: Callable[[Path], T]) -> T:
    """Return the result in a file; compute and save it if there is no file.

    Other processes that want the same result wait meanwhile.

    Args:
        path: The file.
        load: Reads the file.
        compute: Computes the result; takes the folder for shards, which is removed once the file is complete.
    """
    folder = path.with_suffix(".parts")
    make_folder(path.parent)
    with locked(path.with_suffix(".lock")):
        if path.is_file():
            return load(path)
        make_folder(folder)
        result = compute(folder)
        result.save(path)
        shutil.rmtree(folder, ignore_errors=True)
    return result


def write_shards(work: Work, shards: Sequence[Shard], progress: Progress | None) -> None:
    """Write all shards that have no file.

    Inside `search.nodes.session.connected` the shards run on Ray's workers, else in this process.

    Args:
        work: How a shard is computed.
        shards: The shards of the job.
        progress: Called with the numbers of finished and of all images.

    Raises:
        MedcoreError: A worker failed, or no node has room for a shard.
    """
    total = sum(shard.images for shard in shards)
    missing = [shard for shard in shards if not shard.file.is_file()]
    done = total - sum(shard.images for shard in missing)

    def report(count: int, _all: int = 0) -> None:
        if progress is not None:
            progress(done + count, total)

    def add(shard: Shard) -> None:
        nonlocal done
        done += shard.images
        report(0)

    if ray.is_initialized():
        report(0)
        _write_on_ray(work, missing, add)
        return
    for shard in missing:
        work.write(file=shard.file, progress=report, **work.common, **shard.arguments)
        done += shard.images


def _write_on_ray(work: Work, shards: Sequence[Shard], on_done: Callable[[Shard], None]) -> None:
    """Write the shards by tasks on Ray's workers."""
    wanted = request(work.resources)
    fitting(wanted)  # Ray would wait for ever for a place for a task that fits nowhere
    task: Any = ray.remote(_write_shard_on_worker).options(num_cpus=wanted["cpu"], num_gpus=wanted.get("gpu", 0))
    common = {name: ray.put(value) for name, value in work.common.items()}
    running = {
        task.remote(work.resources.cpu, work.write, file=shard.file.absolute(), **common, **shard.arguments): shard
        for shard in shards
    }
    try:
        while running:
            finished, _ = ray.wait(list(running), num_returns=1)
            ray.get(finished[0])
            on_done(running.pop(finished[0]))
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, MedcoreError):
            raise cause from None
        raise ClusterError(
            f"{work.name} failed on a worker: {brief(cause, last=200)}; "
            "start it again to continue with the other shards"
        ) from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _write_shard_on_worker(threads: int, write: Callable[..., None], **arguments: Any) -> None:
    pin_threads(threads)
    write(progress=None, **arguments)
