"""What all trials of a study share, made once: images, score table, teacher outputs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from medcore.checkpoint import file_hash, load
from medcore.cost import cost
from medcore.data import ImageSet, Skipped, load_image_set
from medcore.errors import MedcoreError
from medcore.evaluate import evaluate, summarise
from medcore.recovery import Teacher, compute_teacher
from medcore.sam import MedSam
from medcore.scores import ScoreTable, ScoringWeights, build_table
from medcore.spec import Architecture, EncoderSpec
from search.config import Config, ScoringConfig
from search.device import best_device

logger = logging.getLogger(__name__)

#: Called with the number of finished and of all scored images.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shared:
    """Read-only inputs of every trial. Arrays are NumPy, so that Ray maps them instead of copying them."""

    config: Config
    arch: Architecture
    table: ScoreTable
    calibration: ImageSet
    search: ImageSet
    teacher: Teacher

    @property
    def datasets(self) -> tuple[str, ...]:
        return self.table.datasets


@lru_cache(maxsize=1)
def load_adapted(path: Path, architecture: str | None) -> MedSam:
    """The dense medical model, kept by each worker process between its trials."""
    return load(path, architecture)


def adapted_model(config: Config) -> MedSam:
    return load_adapted(config.model.adapted, config.model.architecture)


def load_split(config: Config, split: str, size: int, per_dataset: int | None) -> ImageSet:
    """Images of one split of all data sets; what had to be skipped is logged, file by file."""
    images, skipped = load_image_set(
        config.data.folders,
        split,
        size,
        per_dataset=per_dataset,
        seed=config.seed,
        save_splits=config.output / "splits",
    )
    report_skipped(skipped)
    return images


def report_skipped(skipped: list[Skipped]) -> None:
    for entry in skipped:
        logger.warning("skipped %s: %s", entry.path, entry.reason)


def calibration_images(config: Config, size: int) -> ImageSet:
    return load_split(config, config.data.calibration_split, size, config.data.calibration_per_dataset)


def score_table(config: Config, calibration: ImageSet, progress: Progress | None = None) -> tuple[ScoreTable, Path]:
    """The study's score table and its file, computed only if no study has done so with the same inputs."""
    adapted = adapted_model(config)
    base = load(config.model.base, config.model.architecture)
    if base.arch != adapted.arch:
        raise MedcoreError(
            f"{config.model.base} ({base.arch.name}) and {config.model.adapted} ({adapted.arch.name}) "
            "differ in architecture; give a pair of one architecture"
        )
    if not adapted.spec.is_dense or not base.spec.is_dense:
        raise MedcoreError(f"{config.model.adapted}: scores need dense checkpoints; this pair has been pruned already")
    identity = {
        "base": file_hash(config.model.base),
        "adapted": file_hash(config.model.adapted),
        "images": fingerprint(calibration),
        "nodes": list(config.scoring.nodes),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = config.output / "cache" / f"scores-{key}.safetensors"
    if path.is_file():
        return ScoreTable.load(path), path
    device = best_device()
    table = build_table(base.to(device), adapted.to(device), calibration, nodes=config.scoring.nodes, progress=progress)
    adapted.cpu()
    make_folder(path.parent)
    table.save(path)
    return table, path


def prepare(config: Config, progress: Progress | None = None) -> Shared:
    """Load, score and run the teacher; everything after this is a trial's own work."""
    adapted = adapted_model(config)
    size = adapted.arch.img_size
    calibration = calibration_images(config, size)
    search = load_split(config, config.data.search_split, size, config.data.search_per_dataset)
    table, _ = score_table(config, calibration, progress)
    device = best_device()
    teacher = compute_teacher(adapted.to(device), calibration, autocast=config.recovery.autocast)
    adapted.cpu()
    return Shared(config, adapted.arch, table, calibration, search, teacher)


def dense_metrics(shared: Shared) -> dict[str, float]:
    """Metrics and cost of the unpruned model on the search images."""
    model = adapted_model(shared.config).to(best_device())
    rows = evaluate(model, shared.search, autocast=shared.config.recovery.autocast)
    model.cpu()
    return summarise(rows) | cost_metrics(EncoderSpec.dense(shared.arch))


def cost_metrics(spec: EncoderSpec) -> dict[str, float]:
    """Both FLOPs figures and encoder parameters, absolute and as fractions of the dense encoder."""
    this, dense = cost(spec), cost(EncoderSpec.dense(spec.arch))
    return {
        "flops": this.flops,
        "flops_paper": this.flops_paper,
        "encoder_params": this.encoder_params,
        "flops_fraction": this.flops / dense.flops,
        "flops_paper_fraction": this.flops_paper / dense.flops_paper,
        "encoder_params_fraction": this.encoder_params / dense.encoder_params,
    }


def scoring_weights(scoring: ScoringConfig) -> ScoringWeights:
    """The configuration's own scoring weights, as opposed to sampled ones."""
    return ScoringWeights(
        alpha_heads=scoring.alpha_heads,
        alpha_channels=scoring.alpha_channels,
        beta=scoring.beta,
        mixture=scoring.mixture,
        boundary_weight=scoring.boundary_weight,
        tau=scoring.tau,
    )


def fingerprint(images: ImageSet) -> str:
    """Hash of the pixels, masks and origins of an image set."""
    digest = hashlib.sha256()
    for array in (images.images, images.masks):
        digest.update(array.tobytes())
    digest.update(json.dumps([images.datasets, images.names]).encode())
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Create a folder or say in one line why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot create this folder ({error.strerror}); choose another `output`") from None
