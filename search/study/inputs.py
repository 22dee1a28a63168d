"""What all trials of a study share: models, images, score table, teacher outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.budgets.limits import Metric
from medcore.budgets.prices import Prices
from medcore.data.frames.frame import Frame
from medcore.data.load import ImageSet, Skipped, load_image_set
from medcore.data.low_masks import NearestImageSet
from medcore.errors import CheckpointError, ConfigError
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.cut import prune, with_parts, without_outputs
from medcore.models.sam import MedSam
from medcore.models.sides.resized import at_side
from medcore.models.spec import DECODER, Architecture, ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.score_table import ScoreTable
from medcore.training.refit.dense_streams import DenseStreams, RefitSettings
from medcore.training.teacher import Teacher
from search.base.device import on_device
from search.base.sections.inputs import Changes, Datasets, ModelConfig
from search.base.sections.pruning import BudgetConfig, RecoveryConfig, ScheduleConfig
from search.base.sections.scoring import ScoringConfig
from search.base.sections.search import SearchConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialSettings:
    """Name and seed of a study, and the configuration that trials read.

    If the cost of `search` is measured time, `prices` holds the table, so that workers on other nodes need no file.
    """

    study: str
    seed: int
    model: ModelConfig
    scoring: ScoringConfig
    recovery: RecoveryConfig
    budget: BudgetConfig
    schedule: ScheduleConfig
    search: SearchConfig
    prices: Prices | None = None


@dataclass(frozen=True)
class Shared:
    """Read-only inputs of every trial.

    Arrays are NumPy, so that Ray maps them instead of copying them.

    Attributes:
        settings: What the configuration says about trials.
        arch: Architecture of both checkpoints.
        table: Statistics that scores are mixed from, with the second-order profile if the study has one.
        calibration: Images for scores.
        search_images: Images on which trials are evaluated.
        search_logits: float16 (N, low, low), the adapted model's logits for the search images.
        recovery_images: Images for recovery and leverage.
        teacher: Outputs of the adapted model for the recovery images.
        streams: The adapted model's streams for refits; None if nothing is refit.
        start: Widths of the adapted model if it is pruned already; None if it is dense.
        reference: Architecture of the unpruned model whose cost shares refer to, if that has another side; else None.
        others: The same for the other sides that trials choose from, by side.
    """

    settings: TrialSettings
    arch: Architecture
    table: ScoreTable
    calibration: ImageSet
    search_images: ImageSet
    search_logits: npt.NDArray[np.float16]
    recovery_images: ImageSet
    teacher: Teacher
    streams: DenseStreams | None
    start: ModelSpec | None = None
    reference: Architecture | None = None
    others: Mapping[int, Shared] = field(default_factory=dict)

    def at(self, side: int | None) -> Shared:
        """Return the inputs of trials at a side; None is the study's own.

        Raises:
            ConfigError: Nothing is prepared for it.
        """
        if side is None or side == self.arch.img_size:
            return self
        if side not in self.others:
            raise ConfigError(f"nothing is prepared for trials of {side} pixels; name the side in search.space.side")
        return self.others[side]

    def costs(self, spec: ModelSpec) -> dict[str, float]:
        """Return `cost_metrics` of a trial's model, as shares of the study's unpruned model."""
        return cost_metrics(spec, self.reference)

    @property
    def start_spec(self) -> ModelSpec:
        """Widths of the adapted model."""
        return ModelSpec.dense(self.arch) if self.start is None else self.start

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the calibration data sets."""
        return self.table.datasets


@lru_cache(maxsize=2)
def _load(path: Path, architecture: str | None, changes: Changes) -> MedSam:
    """Return a model of the pair. Each worker process keeps it between its trials."""
    model = with_parts(load(path, architecture), changes.parts, str(path))
    if changes.side is not None and changes.side != model.arch.img_size:
        model = at_side(model, changes.side)
    return without_outputs(model, changes.drop, str(path))


def adapted_model(model: ModelConfig) -> MedSam:
    """Return θM, the model to prune. A further stage starts from one that is pruned already.

    All callers in this process share it, so they must not change it.
    """
    return _load(model.adapted, model.architecture, model.changes)


def base_model(model: ModelConfig) -> MedSam:
    """Return θS, the general model; shared like `adapted_model`."""
    return _load(model.base, model.architecture, model.changes)


def structure_key(model: ModelConfig, *, answers_only: bool = False) -> dict[str, Any]:
    """Return what of θM's structure, in addition to its file, statistics depend on: a part of their keys.

    Args:
        model: The pair.
        answers_only: Whether only the model's answers count, which are the same whatever can be pruned.
    """
    arch = adapted_model(model).arch
    fields = arch.to_dict()
    if answers_only:
        fields.pop("parts", None)
    elif model.drop:
        fields["drop"] = sorted(model.drop)
    return fields


def same_architecture(model: ModelConfig) -> None:
    """Check that both models have one architecture.

    Raises:
        CheckpointError: They have not, or one of them cannot be loaded.
    """
    base, adapted = base_model(model), adapted_model(model)
    sides = base.arch.img_size, adapted.arch.img_size
    if sides[0] != sides[1]:
        raise CheckpointError(
            f"{model.base} sees a square of {sides[0]} pixels and {model.adapted} one of {sides[1]}; set model.side to "
            "one of them"
        )
    if base.arch != adapted.arch:
        raise CheckpointError(
            f"{model.base} ({base.arch.name}) and {model.adapted} ({adapted.arch.name}) "
            "differ in architecture; give a pair of one architecture"
        )


@lru_cache(maxsize=1)
def matching_base(model: ModelConfig) -> MedSam:
    """Return θS with the groups that θM has, so that reset scores compare the same groups of both.

    A dense general model is cut to the structure of a pruned adapted one. It is shared like `adapted_model`.

    Raises:
        CheckpointError: The models have different architectures, the adapted model's file does not say which groups it
            has kept, or the general model is pruned in another way.
    """
    same_architecture(model)
    base, adapted = base_model(model), adapted_model(model)
    if adapted.spec.is_dense and base.spec.is_dense:
        return base
    if adapted.kept is None:
        raise CheckpointError(
            f"{model.adapted}: the model is pruned and its file does not say which groups it has kept, so the general "
            "model cannot be cut alike for Fisher scores; set scoring.criterion to second_order or magnitude and use "
            "the allocators knapsack or uniform"
        )
    pairs = [] if base.kept is None else list(zip(base.kept, adapted.kept, strict=True))
    if not pairs or any((own < wanted).any() for own, wanted in pairs):
        raise CheckpointError(
            f"{model.base}: the general model has not the groups that {model.adapted} has; give the dense general model"
        )
    # also a dense model may have lost outputs that the study leaves out
    return prune(base, tuple(wanted[own] for own, wanted in pairs))


def load_split(
    datasets: Datasets, split: str, size: int | Frame, per_dataset: int | None = None, *, deal_splits: bool = True
) -> ImageSet:
    """Load the images of one split of all data sets.

    Every file that had to be skipped is logged.

    Args:
        datasets: The images of the study.
        split: Name of the split.
        size: The model's frame, or the side of its square in pixels.
        per_dataset: At most this many images per data set; None for all.
        deal_splits: Whether to draw a split that is not defined yet. Where a study exists already, False makes it an
            error, because new splits could not be those of the study.

    Raises:
        MedcoreError: No image can be used, or the split is not defined and may not be drawn.
    """
    images, skipped = load_image_set(
        datasets.section.folders,
        split,
        size,
        per_dataset=per_dataset,
        seed=datasets.seed,
        save_splits=datasets.splits,
        deal_splits=deal_splits,
        rules=datasets.section.rules,
    )
    report_skipped(skipped)
    return images


def report_skipped(skipped: Sequence[Skipped]) -> None:
    """Log every file that was skipped, with the reason."""
    for entry in skipped:
        logger.warning("skipped %s: %s", entry.path, entry.reason)


def calibration_images(datasets: Datasets, size: int | Frame) -> ImageSet:
    """Load the images for scores.

    `size` is the model's frame, or the side of its square in pixels.
    """
    section = datasets.section
    return _training_images(datasets, size, section.calibration_per_dataset)


def recovery_images(datasets: Datasets, size: int | Frame) -> ImageSet:
    """Load the images for recovery, from the same split as the calibration images.

    `size` is the model's frame, or the side of its square in pixels.
    """
    section = datasets.section
    return _training_images(datasets, size, section.recovery_per_dataset)


def _training_images(datasets: Datasets, size: int | Frame, per_dataset: int | None) -> ImageSet:
    images = load_split(datasets, datasets.section.calibration_split, size, per_dataset)
    return NearestImageSet.of(images) if datasets.section.low_masks == "nearest" else images


def search_images(datasets: Datasets, size: int | Frame, *, deal_splits: bool = True) -> ImageSet:
    """Load the images on which trials are evaluated.

    The arguments are those of `load_split`.
    """
    section = datasets.section
    return load_split(datasets, section.search_split, size, section.search_per_dataset, deal_splits=deal_splits)


def require_same_samples(images: ImageSet, others: ImageSet) -> None:
    """Check that two sets hold the same images and objects, in the same order, possibly in another size.

    Raises:
        ConfigError: They do not: small objects can vanish on a small square.
    """
    samples, found = ([*zip(each.datasets, each.names, strict=True)] for each in (images, others))
    if samples == found:
        return
    apart = sorted({*samples} ^ {*found})
    named = ", ".join(f"{dataset}/{name}" for dataset, name in apart[:3]) + (", …" if len(apart) > 3 else "")
    raise ConfigError(
        f"squares of {images.size} and {others.size} pixels show different objects, {len(apart)} are in one of them "
        f"only ({named}), so models of both sides cannot be compared; choose larger sides, or leave small objects out "
        "by data.smallest_object"
    )


def dense_metrics(model: ModelConfig, images: ImageSet, *, autocast: bool) -> dict[str, float]:
    """Return the metrics on `images` of the model before it is pruned, and its cost."""
    dense = adapted_model(model)
    with on_device(dense):
        rows = evaluate(dense, images, autocast=autocast)
    return summarise(rows) | cost_metrics(dense.spec)


def refit_settings(recovery: RecoveryConfig) -> RefitSettings | None:
    """Return the settings of the refits of a trial; None if there are none."""
    if not recovery.refit_images:
        return None
    return RefitSettings(recovery.refit_images, recovery.refit_ridge, neck=recovery.neck)


def cost_metrics(spec: ModelSpec, reference: Architecture | None = None) -> dict[str, float]:
    """Return both FLOPs figures and the parameters of the encoder, and those of the decoder if it can be pruned.

    Each figure is given as a number and as a fraction of the dense model's.

    Args:
        spec: Structure of the model.
        reference: Architecture of the dense model; None for the model's own.
    """
    this, dense = cost(spec), cost(ModelSpec.dense(reference or spec.arch))
    figures: tuple[Metric, ...] = ("flops", "flops_paper", "encoder_params")
    if DECODER in spec.arch.parts:
        figures += ("call_flops", "decoder_flops", "decoder_params")
    numbers = {name: getattr(this, name) for name in figures}
    return numbers | {f"{name}_fraction": getattr(this, name) / getattr(dense, name) for name in figures}
