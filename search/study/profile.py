"""The second-order profile of a study: named by its inputs, computed once, in shards (`search.study.shards`).

OUTPUT/cache/profile-KEY.safetensors            orders and curves
OUTPUT/cache/profile-KEY.parts/*.safetensors    sums over some images each, while the job is not finished
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcore.data.load import ImageSet
from medcore.errors import DataError
from medcore.models.checkpoint import file_hash
from medcore.scoring.fisher import Progress
from medcore.scoring.moments import ProfileSums, profile_sums, spread
from medcore.scoring.profile import Profile, build_profile, profile_key
from search.base.device import on_device
from search.base.sections.inputs import ModelConfig
from search.nodes.session import Resources
from search.study.inputs import adapted_model, structure_key
from search.study.shards import Shard, Work, kept_result, write_shards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProfileJob:
    """The profile of one checkpoint on some calibration images.

    Attributes:
        model: The pair of checkpoints; the adapted one is profiled.
        calibration: Images to take from.
        seed: Seed of the study, for random signs.
        shard_size: Images per shard.
        cache: Folder for the profile.
        resources: What one shard may use.
        images: Images of the moments, evenly spread over `calibration`.
        metric_images: Images of the output metric, evenly spread over those of the moments.
    """

    model: ModelConfig
    calibration: ImageSet
    seed: int
    shard_size: int
    cache: Path
    resources: Resources
    images: int = 64
    metric_images: int = 32


def study_profile(job: ProfileJob, progress: Progress | None = None) -> Profile:
    """Return the second-order profile of a study.

    Compute it only if no study has done so with the same inputs. Inside `search.nodes.session.connected` the shards run
    on Ray's workers, else in this process. Shards that an interrupted job has left are not computed again.

    Args:
        job: What to profile.
        progress: Called with the numbers of finished and of all images.

    Raises:
        MedcoreError: There are no images, or a worker failed.
    """
    model = adapted_model(job.model)
    if not len(job.calibration) or min(job.images, job.metric_images) < 1:
        raise DataError("second-order profile: needs at least one image; check the data folder and the image counts")

    def compute(folder: Path) -> Profile:
        shards = _shards(job, folder)
        work = Work(
            "second-order profile",
            _write_shard,
            {"model": job.model, "images": job.calibration, "seed": job.seed},
            job.resources,
        )
        write_shards(work, shards, progress)
        sums = ProfileSums.load(shards[0].file, model)
        for shard in shards[1:]:
            sums.add(ProfileSums.load(shard.file, model))
        if sums.skipped:
            names = ", ".join(sums.skipped)
            logger.warning("second-order profile: %d images have non-finite values: %s", len(sums.skipped), names)
        return build_profile(model, sums)

    return kept_result(profile_path(job), lambda path: Profile.load(path, model.spec), compute)


def profile_path(job: ProfileJob) -> Path:
    """Return the profile's file.

    A hash of everything that the profile depends on names it.
    """
    key = profile_key(
        architecture=structure_key(job.model),
        adapted=file_hash(job.model.adapted),
        calibration=job.calibration.fingerprint(),
        images=job.images,
        metric_images=job.metric_images,
        seed=job.seed,
        shard_size=job.shard_size,
    )
    return job.cache / f"profile-{key[:16]}.safetensors"


def _shards(job: ProfileJob, folder: Path) -> list[Shard]:
    """Return the shards, which depend on nothing but the job."""
    chosen = spread(len(job.calibration), job.images)
    metric = {chosen[place] for place in spread(len(chosen), job.metric_images)}
    pieces = [chosen[start : start + job.shard_size] for start in range(0, len(chosen), job.shard_size)]
    return [
        Shard(
            folder / f"{number:04d}.safetensors",
            len(piece),
            {"indices": piece, "metric_indices": [index for index in piece if index in metric]},
        )
        for number, piece in enumerate(pieces)
    ]


def _write_shard(
    model: ModelConfig,
    images: ImageSet,
    seed: int,
    indices: Sequence[int],
    metric_indices: Sequence[int],
    file: Path,
    progress: Progress | None,
) -> None:
    profiled = adapted_model(model)
    with on_device(profiled):
        sums = profile_sums(profiled, images, indices, metric_indices, seed, progress)
    sums.save(file)
