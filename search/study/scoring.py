"""The scoring job of a study: named by its inputs, computed once, in shards (`search.study.shards`).

OUTPUT/cache/scores-KEY.safetensors            the table
OUTPUT/cache/scores-KEY.parts/*.safetensors    sums over some images each, while the job is not finished
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medcore.data.load import ImageSet
from medcore.models.checkpoint import file_hash
from medcore.models.spec import Architecture
from medcore.scoring.criteria import OWN, ScoringWeights, criteria_for, mix
from medcore.scoring.fisher import Progress, calibration_sums
from medcore.scoring.job import Part, assemble, parts
from medcore.scoring.score_table import FORMAT, ScoreTable, table_key
from medcore.scoring.sums import CalibrationSums
from search.base.device import on_device
from search.base.sections.inputs import ModelConfig
from search.base.sections.scoring import ScoringConfig
from search.nodes.session import Resources
from search.study.inputs import adapted_model, base_model, matching_base, structure_key
from search.study.shards import Shard, Work, kept_result, write_shards

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
        only: The only boundary weight that is wanted, which takes one backward pass an image instead of two. None: the
            table serves every weight.
        dense_base: Of a pruned adapted model: whether the general model's information is taken before it is cut alike.
    """

    model: ModelConfig
    calibration: ImageSet
    nodes: tuple[float, ...]
    shard_size: int
    cache: Path
    resources: Resources
    only: float | None = None
    dense_base: bool = False

    @property
    def scored_nodes(self) -> tuple[float, ...]:
        """Return the boundary weights of the table."""
        return self.nodes if self.only is None else (self.only,)


def score_table(job: ScoringJob, progress: Progress | None = None) -> tuple[ScoreTable, Path]:
    """Return the score table and its file.

    Compute it only if no study has done so with the same inputs. A job for one boundary weight takes the table for
    every weight if that exists; the two agree to rounding.

    Inside `search.nodes.session.connected` the shards run on Ray's workers, else in this process. Shards that an
    interrupted job has left are not computed again.

    Args:
        job: What to score.
        progress: Called with the numbers of scored and of all images.

    Raises:
        MedcoreError: As `search.study.inputs.matching_base`, or a worker failed.
    """
    base, adapted = matching_base(job.model), adapted_model(job.model)
    if job.only is not None and (whole := table_path(replace(job, only=None))).is_file():
        return ScoreTable.load(whole), whole
    path = table_path(job)

    def compute(folder: Path) -> ScoreTable:
        plan = parts(job.calibration, job.shard_size)
        write_shards(_work(job), [_shard(folder, part) for part in plan], progress)
        table = assemble(base, adapted, plan, job.scored_nodes, lambda part: _read_shard(job, folder, part))
        _log_skipped(table)
        return table

    return kept_result(path, ScoreTable.load, compute), path


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
        architecture=structure_key(job.model),
        base=file_hash(job.model.base),
        adapted=file_hash(job.model.adapted),
        images=job.calibration.fingerprint(),
        nodes=job.scored_nodes,
        part_size=job.shard_size,
        **({} if job.only is None else {"one_pass": True}),
        **({"dense_base": True} if job.dense_base else {}),
    )
    return job.cache / f"scores-{key[:16]}.safetensors"


def _work(job: ScoringJob) -> Work:
    common = {
        "model": job.model,
        "nodes": job.scored_nodes,
        "one_pass": job.only is not None,
        "dense_base": job.dense_base,
        "images": job.calibration,
    }
    return Work("scoring", _write_shard, common, job.resources)


def _shard(folder: Path, part: Part) -> Shard:
    return Shard(_file(folder, part), len(part.indices), {"part": part})


def _write_shard(
    model: ModelConfig,
    nodes: Sequence[float],
    one_pass: bool,
    dense_base: bool,
    images: ImageSet,
    part: Part,
    file: Path,
    progress: Progress | None,
) -> None:
    base = base_model if dense_base else matching_base
    scored = base(model) if part.dataset is None else adapted_model(model)
    with on_device(scored):
        sums = calibration_sums(scored, images, part.indices, nodes, progress, one_pass=one_pass)
    sums.save(file)


def _read_shard(job: ScoringJob, folder: Path, part: Part) -> CalibrationSums:
    """Return a shard's sums over what the adapted model has."""
    adapted = adapted_model(job.model)
    if part.dataset is not None or not job.dense_base:
        return CalibrationSums.load(_file(folder, part), adapted.spec)
    sums = CalibrationSums.load(_file(folder, part), base_model(job.model).spec)
    return sums if adapted.kept is None else sums.restricted(adapted.kept)


def _file(folder: Path, part: Part) -> Path:
    # the name of a data set may contain any character, so files carry a hash of it
    group = "general" if part.dataset is None else hashlib.sha256(part.dataset.encode()).hexdigest()[:8]
    return folder / f"{group}-{part.number:04d}.safetensors"


def save_heatmaps(scoring: ScoringConfig, arch: Architecture, table: ScoreTable, path: Path) -> None:
    """Draw MedCore's scores, their two components, and every baseline criterion that the table serves."""
    # matplotlib takes long to load, and trial workers import this module
    from results.plots.heatmap import save_score_heatmaps

    own = replace(scoring.weights(), criterion=OWN, blend=1.0)
    known = criteria_for(table)
    variants: dict[str, ScoringWeights] = {}
    if OWN in known:
        variants[OWN] = own
        for name, alpha in (("zero scores", 1.0), ("reset scores", 0.0)):
            variants[name] = replace(own, alpha={family.name: alpha for family in arch.families})
    variants |= {name: replace(own, criterion=name) for name in known if name not in (OWN, "random")}
    save_score_heatmaps({name: mix(table, weights, arch) for name, weights in variants.items()}, arch, path)
