"""`medcore evaluate`: metrics of a checkpoint on image folders, at original size and in the model's frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medcore.data.empty_masks import empty_samples, joined
from medcore.data.load import ImageSet, list_folder, load_image_set
from medcore.data.mask_rules import AS_THE_FILE_SAYS, MaskRules
from medcore.models.checkpoint import load
from medcore.quality.catalogue import ranked
from medcore.quality.evaluate import evaluate as evaluate_model
from medcore.quality.evaluate import summarise
from medcore.quality.model_frame import WideBoxes, in_model_frame
from results.stats.intervals import macro_intervals
from search.base.device import best_device
from search.study.inputs import cost_metrics, report_skipped

#: Where masks are compared: at the size of each image, in the model's square, or both.
Frame = Literal["original", "model", "both"]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Frames:
    """Frames to evaluate in, and the prompts of the model's frame."""

    frame: Frame = "original"
    boxes: WideBoxes = field(default_factory=WideBoxes)


def evaluate(
    checkpoint: Path,
    folders: Sequence[Path],
    split: str,
    architecture: str | None = None,
    autocast: bool = False,
    splits: Path | None = None,
    frames: Frames = Frames(),
    rules: MaskRules = AS_THE_FILE_SAYS,
) -> dict[str, Any]:
    """Return a checkpoint's cost and its metrics on one split of image folders.

    At original size the prompts are exact boxes and samples without foreground are left out. In the model's frame the
    boxes are widened and samples without foreground count.

    Args:
        checkpoint: File of the model.
        folders: Data folders, with images/ and masks/ each.
        split: Name of the split.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.
        autocast: Run the model in bfloat16.
        splits: Folder with a study's saved splits, which is only read. Without it, splits that a data folder does not
            define are drawn for this call, with a warning.
        frames: Where to compare masks.
        rules: What is the object in a mask.

    Returns:
        The metrics at original size by name, with `intervals`, and the numbers that they rest on: `images`, their
        `objects` and `images_by_dataset`; the same of the model's frame under `model_frame`; the number of files, or of
        parts of files, that were `skipped`; and the costs. A frame that was not asked for is left out.
    """
    model = load(checkpoint, architecture)
    images, skipped = load_image_set(
        folders, split, model.arch.img_size, save_splits=splits, deal_splits=splits is None, rules=rules
    )
    report_skipped(skipped)
    model = model.to(best_device())
    result: dict[str, Any] = {"checkpoint": str(checkpoint), "split": split, "skipped": len(skipped)}
    if frames.frame != "model":
        result |= figures(evaluate_model(model, images, autocast=autocast), images.sources or None)
    if frames.frame != "original":
        empty = empty_samples(folders, split, images, rules=rules, save_splits=splits, deal_splits=splits is None)
        every = images if empty is None else joined(images, empty)
        framed = in_model_frame(every, _file_names(folders, every), frames.boxes)
        result["model_frame"] = {
            "side": framed.size,
            "widen_px": frames.boxes.widen,
            "box_seed": frames.boxes.seed,
            "empty_masks": len(every) - len(images),
            **figures(evaluate_model(model, framed, autocast=autocast), framed.sources or None),
        }
    return result | cost_metrics(model.spec)


def figures(rows: Rows, sources: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the means of the rows of `medcore.quality.evaluate.evaluate`, and what they rest on.

    `intervals` are 95 % bootstrap intervals of the macro means over samples; a metric has none if a data set has a
    single image.

    Args:
        rows: One for each sample.
        sources: Name of each sample's image; by default each sample has one of its own.
    """
    table = pd.DataFrame(rows)
    by_dataset = pd.Series(table["name"] if sources is None else list(sources)).groupby(table["dataset"], sort=False)
    counts = {str(dataset): int(count) for dataset, count in by_dataset.nunique().items()}
    names = [name for name in ranked() if name in table]
    ends = dict(zip(names, macro_intervals(table[names], table["dataset"]).to_numpy().tolist(), strict=True))
    known = min(counts.values()) > 1
    intervals = {name: ends[name] if known else None for name in names}
    head = {"images": sum(counts.values()), "objects": len(rows), "images_by_dataset": counts}
    return {**head, **summarise(rows), "intervals": intervals}


def _file_names(folders: Sequence[Path], images: ImageSet) -> list[str]:
    """Return the names from which samples draw their boxes, (N,).

    It is the name of the sample's file, or its own if a file holds several samples.
    """
    samples = [sample for folder in folders for sample in list_folder(folder).samples]
    uses = Counter(sample.image for sample in samples)
    names = {
        (sample.dataset, sample.name): sample.image.name if uses[sample.image] == 1 else sample.name
        for sample in samples
    }
    return [names[dataset, images.source(index)] for index, dataset in enumerate(images.datasets)]
