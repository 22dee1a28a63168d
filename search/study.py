"""What all trials of a study share: models, images, score table, teacher outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from medcore.checkpoint import load
from medcore.cost import cost
from medcore.data import ImageSet, Skipped, load_image_set
from medcore.errors import MedcoreError
from medcore.evaluate import evaluate, summarise
from medcore.recovery import Teacher
from medcore.sam import MedSam
from medcore.score_table import ScoreTable
from medcore.scores import ScoringWeights
from medcore.spec import Architecture, EncoderSpec
from search.config import Config, ScoringConfig
from search.device import best_device

logger = logging.getLogger(__name__)


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


@lru_cache(maxsize=2)
def _load(path: Path, architecture: str | None) -> MedSam:
    """A dense model, kept by each worker process between its trials."""
    return load(path, architecture)


def adapted_model(config: Config) -> MedSam:
    """θM, the model to prune; shared by all callers in this process, so they must not change it."""
    return _load(config.model.adapted, config.model.architecture)


def base_model(config: Config) -> MedSam:
    """θS, the general model; shared like `adapted_model`."""
    return _load(config.model.base, config.model.architecture)


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


def make_folder(path: Path) -> None:
    """Create a folder or say in one line why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot create this folder ({error.strerror}); choose another `output`") from None
