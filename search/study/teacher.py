"""The unpruned model's answers on a study's recovery images: computed once, in shards (`search.study.shards`).

OUTPUT/cache/teacher-KEY.safetensors            the answers
OUTPUT/cache/teacher-KEY.parts/*.safetensors    answers on some images each, while the job is not finished
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError
from medcore.models.checkpoint import file_hash
from medcore.scoring.fisher import Progress
from medcore.scoring.score_table import table_key
from medcore.training.teacher import TEACHER_FORMAT, Teacher, compute_teacher
from search.base.device import on_device
from search.base.sections.inputs import ModelConfig
from search.nodes.session import Resources
from search.study.inputs import adapted_model, structure_key
from search.study.shards import Shard, Work, kept_result, write_shards


@dataclass(frozen=True)
class TeacherJob:
    """The answers of one checkpoint on some images.

    Attributes:
        model: The pair of checkpoints; the adapted one answers.
        images: The images.
        autocast: Whether the model runs in bfloat16.
        shard_size: Images per shard.
        cache: Folder for the answers.
        resources: What one shard may use.
    """

    model: ModelConfig
    images: ImageSet
    autocast: bool
    shard_size: int
    cache: Path
    resources: Resources


def study_teacher(job: TeacherJob, progress: Progress | None = None) -> Teacher:
    """Return the answers on the job's images, in their order.

    Compute them only if no study has done so with the same inputs.

    Args:
        job: Who answers on what.
        progress: Called with the numbers of finished and of all images.

    Raises:
        MedcoreError: An answer is not finite, a file in the cache is damaged, or a worker failed.
    """

    def compute(folder: Path) -> Teacher:
        starts = range(0, len(job.images), job.shard_size)
        pieces = [list(range(start, min(start + job.shard_size, len(job.images)))) for start in starts]
        shards = [
            Shard(folder / f"{number:04d}.safetensors", len(piece), {"indices": piece})
            for number, piece in enumerate(pieces)
        ]
        common = {"model": job.model, "images": job.images, "autocast": job.autocast}
        write_shards(Work("teacher", _write_shard, common, job.resources), shards, progress)
        parts = [Teacher.load(shard.file) for shard in shards]
        return Teacher(
            np.concatenate([part.embeddings for part in parts]), np.concatenate([part.logits for part in parts])
        )

    def load(path: Path) -> Teacher:
        kept = Teacher.load(path)
        if len(kept) != len(job.images):
            raise CheckpointError(f"{path}: answers on {len(kept)} images for {len(job.images)}; delete the file")
        return kept

    return kept_result(teacher_path(job), load, compute)


def teacher_path(job: TeacherJob) -> Path:
    """Return the file of the answers; a hash of everything that they depend on names it."""
    key = table_key(
        format=TEACHER_FORMAT,
        architecture=structure_key(job.model, answers_only=True),
        adapted=file_hash(job.model.adapted),
        images=job.images.fingerprint(),
        autocast=job.autocast,
        shard_size=job.shard_size,
    )
    return job.cache / f"teacher-{key[:16]}.safetensors"


def _write_shard(
    model: ModelConfig,
    images: ImageSet,
    autocast: bool,
    indices: Sequence[int],
    file: Path,
    progress: Progress | None,
) -> None:
    adapted, chosen = adapted_model(model), images.subset(np.asarray(indices, np.intp))
    with on_device(adapted):
        answers = compute_teacher(adapted, chosen, autocast=autocast)
    answers.save(file)
    if progress is not None:
        progress(len(chosen), len(chosen))
