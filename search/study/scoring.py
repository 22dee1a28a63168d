"""The scoring job of a study: named by its inputs, cut into shards, resumable, and shared out over Ray if Ray runs.

OUTPUT/cache/scores-KEY.safetensors            the table
OUTPUT/cache/scores-KEY.parts/*.safetensors    sums over some images each, while the job is not finished
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, ClusterError, MedcoreError, brief
from medcore.files import locked
from medcore.models.checkpoint import file_hash
from medcore.models.spec import Architecture
from medcore.scoring.criteria import CRITERIA, OWN, ScoringWeights, mix
from medcore.scoring.fisher import Progress, calibration_sums
from medcore.scoring.job import Part, assemble, parts
from medcore.scoring.score_table import FORMAT, ScoreTable, table_key
from medcore.scoring.sums import CalibrationSums
from results.plots.heatmap import save_score_heatmaps
from results.store.files import make_folder
from search.base.device import on_device, pin_threads
from search.base.sections.inputs import ModelConfig
from search.base.sections.scoring import ScoringConfig
from search.nodes.session import Resources, fitting, request
from search.study.inputs import adapted_model, base_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringJob:
    """The scoring of one pair of checkpoints on one set of images.

    Attributes:
        model: The pair of checkpoints.
        calibration: The images.
        nodes: Boundary weights for which the table keeps reset scores.
        shard_size: Images per shard.
        cache: Folder for the table.
        resources: What one shard may use.
    """

    model: ModelConfig
    calibration: ImageSet
    nodes: tuple[float, ...]
    shard_size: int
    cache: Path
    resources: Resources


def score_table(job: ScoringJob, progress: Progress | None = None) -> tuple[ScoreTable, Path]:
    """Return the score table and its file.

    Compute it only if no study has done so with the same inputs.

    Inside `search.nodes.session.connected` the shards run on Ray's workers, else in this process. Shards that an
    interrupted job has left are not computed again.

    Args:
        job: What to score.
        progress: Called with the numbers of scored and of all images.

    Raises:
        MedcoreError: The checkpoints are no dense pair of one architecture, or a worker failed.
    """
    base, adapted = base_model(job.model), adapted_model(job.model)
    if base.arch != adapted.arch:
        raise CheckpointError(
            f"{job.model.base} ({base.arch.name}) and {job.model.adapted} ({adapted.arch.name}) "
            "differ in architecture; give a pair of one architecture"
        )
    if not adapted.spec.is_dense or not base.spec.is_dense:
        raise CheckpointError(f"{job.model.adapted}: scores need dense checkpoints; this pair has been pruned already")
    path = table_path(job)
    folder = path.with_suffix(".parts")
    make_folder(path.parent)
    with locked(path.with_suffix(".lock")):
        if path.is_file():
            return ScoreTable.load(path), path
        make_folder(folder)
        shards = parts(job.calibration, job.shard_size)
        _compute(job, shards, folder, progress)
        table = assemble(
            base, adapted, shards, job.nodes, lambda shard: CalibrationSums.load(_file(folder, shard), base.spec)
        )
        _log_skipped(table)
        table.save(path)
        shutil.rmtree(folder, ignore_errors=True)
    return table, path


def _log_skipped(table: ScoreTable) -> None:
    """Log which images are in no score because a gradient was not finite."""
    for where, names in {**table.meta["skipped"], "the general model": table.meta["base_skipped"]}.items():
        if names:
            logger.warning("scoring, %s: %d images have non-finite gradients: %s", where, len(names), ", ".join(names))


def table_path(job: ScoringJob) -> Path:
    """Return the table's file.

    A hash of everything that the table depends on names it.
    """
    key = table_key(
        format=FORMAT,
        architecture=adapted_model(job.model).arch,
        base=file_hash(job.model.base),
        adapted=file_hash(job.model.adapted),
        images=job.calibration.fingerprint(),
        nodes=job.nodes,
        part_size=job.shard_size,
    )
    return job.cache / f"scores-{key[:16]}.safetensors"


def _compute(job: ScoringJob, shards: Sequence[Part], folder: Path, progress: Progress | None) -> None:
    """Write the sums of all shards that have no file."""
    total = sum(len(shard.indices) for shard in shards)
    missing = [shard for shard in shards if not _file(folder, shard).is_file()]
    done = total - sum(len(shard.indices) for shard in missing)

    def report(count: int, _all: int = 0) -> None:
        if progress is not None:
            progress(done + count, total)

    if ray.is_initialized():

        def add(shard: Part) -> None:
            nonlocal done
            done += len(shard.indices)
            report(0)

        report(0)
        _compute_on_ray(job, missing, folder, add)
        return
    for shard in missing:
        _write_shard(job.model, job.nodes, job.calibration, shard, _file(folder, shard), progress=report)
        done += len(shard.indices)


def _compute_on_ray(job: ScoringJob, shards: Sequence[Part], folder: Path, on_done: Callable[[Part], None]) -> None:
    """Write the sums of the shards by tasks on Ray's workers."""
    wanted = request(job.resources)
    fitting(wanted)  # Ray would wait for ever for a place for a task that fits nowhere
    task: Any = ray.remote(_write_shard_on_worker).options(num_cpus=wanted["cpu"], num_gpus=wanted.get("gpu", 0))
    common = {"model": job.model, "nodes": job.nodes, "images": ray.put(job.calibration)}
    running = {
        task.remote(job.resources.cpu, shard=shard, file=_file(folder, shard).absolute(), **common): shard
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
            f"scoring failed on a worker: {brief(cause, last=200)}; start it again to continue with the other shards"
        ) from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _write_shard(
    model: ModelConfig,
    nodes: Sequence[float],
    images: ImageSet,
    shard: Part,
    file: Path,
    progress: Progress | None = None,
) -> None:
    scored = base_model(model) if shard.dataset is None else adapted_model(model)
    with on_device(scored):
        sums = calibration_sums(scored, images, shard.indices, nodes, progress)
    sums.save(file)


def _write_shard_on_worker(threads: int, **shard: Any) -> None:
    pin_threads(threads)
    _write_shard(**shard)


def _file(folder: Path, shard: Part) -> Path:
    # the name of a data set may contain any character, so files carry a hash of it
    group = "general" if shard.dataset is None else hashlib.sha256(shard.dataset.encode()).hexdigest()[:8]
    return folder / f"{group}-{shard.number:04d}.safetensors"


def save_heatmaps(scoring: ScoringConfig, arch: Architecture, table: ScoreTable, path: Path) -> None:
    """Draw MedCore's scores, their two components, and every baseline criterion."""
    own = replace(scoring.weights(), criterion=OWN, blend=1.0)
    variants: dict[str, ScoringWeights] = {OWN: own}
    for name, alpha in (("zero scores", 1.0), ("reset scores", 0.0)):
        variants[name] = replace(own, alpha={family.name: alpha for family in arch.families})
    variants |= {name: replace(own, criterion=name) for name in CRITERIA if name not in (OWN, "random")}
    save_score_heatmaps({name: mix(table, weights, arch) for name, weights in variants.items()}, arch, path)
