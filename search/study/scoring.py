"""The scoring job of a study: named by what goes in, cut into parts, shared out over Ray where it runs, resumable.

OUTPUT/cache/scores-KEY.safetensors            the table
OUTPUT/cache/scores-KEY.parts/*.safetensors    sums over some images each, while the job is not finished
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayError

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.checkpoint import file_hash
from medcore.scoring.criteria import CRITERIA, mix
from medcore.scoring.fisher import Progress, calibration_sums
from medcore.scoring.job import Part, assemble, parts
from medcore.scoring.score_table import FORMAT, ScoreTable, table_key
from medcore.scoring.sums import CalibrationSums
from results.plots.heatmap import save_score_heatmaps
from results.store.files import make_folder
from search.base.config import Config, scoring_weights
from search.base.device import best_device, pin_threads
from search.base.lock import locked
from search.nodes.session import Resources, fitting, one_line, request
from search.study.inputs import adapted_model, base_model

logger = logging.getLogger(__name__)


def score_table(config: Config, calibration: ImageSet, progress: Progress | None = None) -> tuple[ScoreTable, Path]:
    """The study's score table and its file, computed only if no study has done so with the same inputs.

    Inside `search.nodes.session.connected` the parts run on Ray's workers, else in this process. Parts that an
    interrupted job has left are not computed again.
    """
    base, adapted = base_model(config), adapted_model(config)
    if base.arch != adapted.arch:
        raise MedcoreError(
            f"{config.model.base} ({base.arch.name}) and {config.model.adapted} ({adapted.arch.name}) "
            "differ in architecture; give a pair of one architecture"
        )
    if not adapted.spec.is_dense or not base.spec.is_dense:
        raise MedcoreError(f"{config.model.adapted}: scores need dense checkpoints; this pair has been pruned already")
    nodes, size = config.scoring.nodes, config.scoring.part_size
    path = table_path(config, calibration)
    folder = path.with_suffix(".parts")
    make_folder(path.parent)
    with locked(path.with_suffix(".lock")):
        if path.is_file():
            return ScoreTable.load(path), path
        make_folder(folder)
        plan = parts(calibration, size)
        _compute(config, calibration, plan, folder, progress)
        table = assemble(
            base, adapted, plan, nodes, lambda part: CalibrationSums.load(_file(folder, part), base.arch.depth)
        )
        _name_skipped(table)
        table.save(path)
        shutil.rmtree(folder, ignore_errors=True)
    return table, path


def _name_skipped(table: ScoreTable) -> None:
    """Say which images are in no score, because a gradient was not finite."""
    for where, names in {**table.meta["skipped"], "the general model": table.meta["base_skipped"]}.items():
        if names:
            logger.warning("scoring, %s: %d images have non-finite gradients: %s", where, len(names), ", ".join(names))


def table_path(config: Config, calibration: ImageSet) -> Path:
    """Where the table lies once it is computed, named by a hash of all that it depends on."""
    key = table_key(
        format=FORMAT,
        architecture=adapted_model(config).arch,
        base=file_hash(config.model.base),
        adapted=file_hash(config.model.adapted),
        images=calibration.fingerprint(),
        nodes=config.scoring.nodes,
        part_size=config.scoring.part_size,
    )
    return config.output / "cache" / f"scores-{key[:16]}.safetensors"


def _compute(config: Config, images: ImageSet, plan: Sequence[Part], folder: Path, progress: Progress | None) -> None:
    """Write the sums of all parts whose file is missing."""
    total = sum(len(part.indices) for part in plan)
    missing = [part for part in plan if not _file(folder, part).is_file()]
    done = total - sum(len(part.indices) for part in missing)

    def tell(count: int, _all: int = 0) -> None:
        if progress is not None:
            progress(done + count, total)

    if not ray.is_initialized():
        for part in missing:
            _write_part(config, images, part, folder, tell)
            done += len(part.indices)
        return
    resources = Resources(config.search.cpus_per_trial, config.search.gpu_share)
    wanted = request(resources)
    fitting(wanted)  # a task that fits nowhere would wait for ever
    task = ray.remote(_write_part_on_worker).options(num_cpus=wanted["cpu"], num_gpus=wanted.get("gpu", 0))
    shared = ray.put(images)
    running = {task.remote(config, shared, part, str(folder.absolute()), resources.cpu): part for part in missing}
    tell(0)
    try:
        while running:
            finished, _ = ray.wait(list(running), num_returns=1)
            ray.get(finished[0])
            done += len(running.pop(finished[0]).indices)
            tell(0)
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, MedcoreError):
            raise cause from None
        raise MedcoreError(f"scoring failed on a worker: {one_line(cause)}; start it again to go on") from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _write_part(config: Config, images: ImageSet, part: Part, folder: Path, progress: Progress | None = None) -> None:
    model = base_model(config) if part.dataset is None else adapted_model(config)
    sums = calibration_sums(model.to(best_device()), images, part.indices, config.scoring.nodes, progress)
    model.cpu()
    sums.save(_file(folder, part))


def _write_part_on_worker(config: Config, images: ImageSet, part: Part, folder: str, threads: int) -> None:
    pin_threads(threads)
    _write_part(config, images, part, Path(folder))


def _file(folder: Path, part: Part) -> Path:
    # a data set's name may hold anything, so files are told apart by a hash of it
    group = "general" if part.dataset is None else hashlib.sha256(part.dataset.encode()).hexdigest()[:8]
    return folder / f"{group}-{part.number:04d}.safetensors"


def save_heatmaps(config: Config, table: ScoreTable, path: Path) -> None:
    """A picture of MedCore's scores, of their two parts and of every baseline criterion."""
    arch, own = adapted_model(config).arch, replace(scoring_weights(config.scoring), criterion="medcore", blend=1.0)
    shown = {"medcore": own}
    for name, alpha in (("zero scores", 1.0), ("reset scores", 0.0)):
        shown[name] = replace(own, alpha_heads=alpha, alpha_channels=alpha)
    shown |= {name: replace(own, criterion=name) for name in CRITERIA if name not in ("medcore", "random")}
    save_score_heatmaps({name: mix(table, weights, arch) for name, weights in shown.items()}, path)
