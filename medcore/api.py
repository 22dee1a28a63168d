"""The steps of the method for programs of one's own; `import medcore` offers them.

    import medcore

    model = medcore.load("medical.pth", "vit_b")
    images = medcore.load_images(["kvasir-seg"], "train", model.arch.frame)
    profile = medcore.score(model, images)
    budget = medcore.allocate(model, profile, 0.1)
    pruned = medcore.prune(model, profile, budget)
    medcore.refit(pruned, model, images)
    medcore.recover(pruned, model, images, steps=300)
    test = medcore.load_images(["kvasir-seg"], "val", model.arch.frame)
    print(medcore.evaluate(pruned, test)["boundary_f1"])
    medcore.export(pruned, "pruned.safetensors")

Models run on the device of their parameters. Nothing here writes a file but `export`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import Limits, Metric
from medcore.data.frames.frame import Frame
from medcore.data.labels import AS_THE_FILE_SAYS, MaskRules
from medcore.data.load import ImageSet, load_image_set
from medcore.models import checkpoint, cut
from medcore.models.cost import cost
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality import evaluate as quality
from medcore.scoring.moments import profile_sums, spread
from medcore.scoring.profile import Profile, build_profile
from medcore.training import recovery
from medcore.training.orders import NeckLayers, recovery_rate
from medcore.training.refit import refit as refitting
from medcore.training.refit.dense_streams import record_streams
from medcore.training.teacher import compute_teacher
from medcore.training.terms.registry import RECOMMENDED_TERMS

logger = logging.getLogger(__name__)


def load(
    path: str | Path, architecture: str | Path | Architecture | None = None, parts: Sequence[str] | None = None
) -> MedSam:
    """Load a checkpoint: float32, on the CPU, in evaluation mode.

    Args:
        path: What `export` wrote, or a state dictionary of segment-anything.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.
        parts: What can be pruned, such as `["encoder", "decoder"]`; None for what the file says, or the encoder.

    Raises:
        MedcoreError: The file is missing, damaged, or of another architecture, or has no such parts.
    """
    model = checkpoint.load(path, architecture)
    return model if parts is None else cut.with_parts(model, parts, str(path))


def load_images(
    folders: Sequence[str | Path], split: str, size: int | Frame, rules: MaskRules = AS_THE_FILE_SAYS
) -> ImageSet:
    """Read one split of data folders. What is left out is logged as a warning.

    Args:
        folders: Data folders, such as those with images/ and masks/.
        split: A name in their `splits.json`, or `all`.
        size: The model's frame, `model.arch.frame`, or the side of a square that images fill.
        rules: Which labels of a mask are the object.

    Raises:
        DataError: A folder cannot be used, or no image is left.
    """
    images, skipped = load_image_set([Path(folder) for folder in folders], split, size, rules=rules)
    for entry in skipped:
        logger.warning("skipped %s: %s", entry.path, entry.reason)
    return images


def score(model: MedSam, images: ImageSet, *, most: int = 64, metric: int = 32, seed: int = 0) -> Profile:
    """Compute the second-order profile of a model (method §12).

    Args:
        model: The medical model, dense or pruned.
        images: Calibration images.
        most: How many of them give moments, evenly spread.
        metric: How many of those give the output metric too.
        seed: Seed of the random signs.

    Raises:
        DataError: There are no images, or none gives finite values.
    """
    chosen = spread(len(images), most)
    return build_profile(
        model, profile_sums(model, images, chosen, [chosen[place] for place in spread(len(chosen), metric)], seed)
    )


def allocate(model: MedSam, profile: Profile, fraction: float, cost: Metric = "flops_paper") -> ModelSpec:
    """Find the widths of least predicted loss within a share of the dense encoder's cost (5.7).

    Args:
        model: The model, dense or pruned.
        profile: Its profile.
        fraction: The share, in (0, 1].
        cost: The cost; `flops_paper` is the MedCore paper's count, `flops` what runs.

    Raises:
        MedcoreError: The share is out of reach; the message names the smallest one.
    """
    limits = Limits(current=model.spec)
    return knapsack_budget(model.arch, profile.dense_curves(model.arch), fraction, cost, limits)


def prune(model: MedSam, profile: Profile, budget: ModelSpec) -> MedSam:
    """Build a physically smaller model that keeps the groups which the profile removes last.

    Args:
        model: The model, dense or pruned, which stays as it is.
        profile: Its profile.
        budget: Widths to keep.
    """
    return cut.prune(model, select(profile.scores(), budget))


def refit(
    pruned: MedSam, dense: MedSam, images: ImageSet, *, most: int = 64, neck: NeckLayers = "pointwise"
) -> refitting.RefitLog:
    """Solve for the output layers of a pruned model and its neck in closed form, in place (method §11).

    Args:
        pruned: The pruned model.
        dense: The model that it was pruned from.
        images: Calibration images.
        most: How many of them to use, evenly spread.
        neck: Which convolutions of the neck to solve for: "none"; "pointwise" (1 × 1), best before a recovery;
            or "all", best without one.

    Returns:
        The errors of each branch and of the neck's layers.

    Raises:
        MedcoreError: There are no images, or no space for the streams.
    """
    settings = refitting.RefitSettings(most, neck=neck)
    return refitting.refit(pruned, record_streams(dense, images, settings), settings)


def recover(
    pruned: MedSam,
    dense: MedSam,
    images: ImageSet,
    *,
    steps: int = 300,
    lr: float | None = None,
    autocast: bool = False,
    seed: int = 0,
    terms: Mapping[str, float] = RECOMMENDED_TERMS,
    train_decoder: bool = False,
) -> recovery.RecoveryLog:
    """Train what was cut of a model against the masks and the dense model, in place (method §6, §13).

    Args:
        pruned: The pruned model.
        dense: The model that it was pruned from.
        images: Images to train on.
        steps: Number of steps.
        lr: Learning rate; None for the rate of the share of FLOPs that is left (13.3).
        autocast: Whether to run in bfloat16.
        seed: Decides which images each step takes.
        terms: Weights of further terms of the loss, by their names in `medcore.training.terms.registry.LOSS_TERMS`; {}
            for none.
        train_decoder: Whether the mask decoder trains also where nothing of it was cut.

    Returns:
        The log of each step.
    """
    left = cost(pruned.spec).flops_paper / cost(ModelSpec.dense(pruned.arch)).flops_paper
    rate = recovery_rate(left) if lr is None else lr
    settings = recovery.RecoverySettings(
        steps,
        rate,
        warmup=min(5, steps),
        average=0.5,
        autocast=autocast,
        train_decoder=train_decoder,
        terms=terms,
    )
    return recovery.recover(pruned, images, compute_teacher(dense, images), settings, seed)


def evaluate(model: MedSam, images: ImageSet, *, autocast: bool = False) -> dict[str, float]:
    """Return means of all metrics at original size, prompted with exact boxes (method §7).

    Args:
        model: The model.
        images: Images with masks.
        autocast: Whether to run in bfloat16.

    Returns:
        For each metric the mean over data sets under its name; `summarise` has the other keys.
    """
    return quality.summarise(quality.evaluate(model, images, autocast=autocast))


def export(model: MedSam, path: str | Path) -> None:
    """Write a model as safetensors that describe themselves; `load` reads them.

    Raises:
        StorageError: The file cannot be written.
    """
    checkpoint.save(path, model)
