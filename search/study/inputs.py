"""What all trials of a study share: models, images, score table, teacher outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from medcore.data.load import ImageSet, Skipped, load_image_set
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture, EncoderSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.score_table import ScoreTable
from medcore.training.recovery import Teacher
from search.base.config import Config
from search.base.device import best_device

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


def load_split(config: Config, split: str, size: int, per_dataset: int | None, deal_splits: bool = True) -> ImageSet:
    """Images of one split of all data sets; what had to be skipped is logged, file by file.

    deal_splits: False for a study that is there already: parts that it has not saved are an error then.
    """
    images, skipped = load_image_set(
        config.data.folders,
        split,
        size,
        per_dataset=per_dataset,
        seed=config.seed,
        save_splits=config.output / "splits",
        deal_splits=deal_splits,
    )
    report_skipped(skipped)
    return images


def report_skipped(skipped: list[Skipped]) -> None:
    for entry in skipped:
        logger.warning("skipped %s: %s", entry.path, entry.reason)


def calibration_images(config: Config, size: int) -> ImageSet:
    return load_split(config, config.data.calibration_split, size, config.data.calibration_per_dataset)


def dense_metrics(config: Config, images: ImageSet) -> dict[str, float]:
    """Metrics of the unpruned model on `images`, and its cost."""
    model = adapted_model(config).to(best_device())
    rows = evaluate(model, images, autocast=config.recovery.autocast)
    model.cpu()
    return summarise(rows) | cost_metrics(EncoderSpec.dense(model.arch))


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
