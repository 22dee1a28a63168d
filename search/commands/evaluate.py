"""`medcore evaluate`: metrics of a checkpoint on image folders, at original size and in the model's frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Literal

import pandas as pd
import torch

from medcore.data.empty_masks import empty_samples, joined
from medcore.data.formats.npz import NpzFolders
from medcore.data.formats.npz_case import whole_cases
from medcore.data.load import ImageSet, list_folder, load_image_set
from medcore.data.mask_rules import AS_THE_FILE_SAYS, MaskRules
from medcore.data.readers import reader_of
from medcore.data.selection.samples import nothing_usable, select
from medcore.devices import device_of
from medcore.errors import DataError
from medcore.models.checkpoint import load
from medcore.quality.cases.evaluate import evaluate_cases
from medcore.quality.cases.scores import Scores
from medcore.quality.cases.segment import Segmenter
from medcore.quality.catalogue import ranked
from medcore.quality.evaluate import evaluate as evaluate_model
from medcore.quality.evaluate import summarise
from medcore.quality.latency import device_name
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
        folders, split, model.arch.frame, save_splits=splits, deal_splits=splits is None, rules=rules
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


def by_modality(
    checkpoint: Path,
    folders: Sequence[Path],
    split: str,
    architecture: str | None = None,
    autocast: bool = False,
    splits: Path | None = None,
    rules: MaskRules = AS_THE_FILE_SAYS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return a checkpoint's scores and running times on whole cases of the MedSAM challenge.

    Args:
        checkpoint: File of the model.
        folders: Folders with the challenge's archives.
        split: Name of the split.
        architecture: As for `evaluate`.
        autocast: As for `evaluate`.
        splits: As for `evaluate`.
        rules: Their windows apply; each label is an object whatever they say of masks.
        progress: Called with the finished and all cases.

    Returns:
        `modalities` with the means over the cases of each; `overall`, their mean; `cases`, a row for each; the number
        of files that were `skipped`; what the times were measured on; and the costs. Each `seconds` includes
        `load_seconds`, the time to load the checkpoint.

    Raises:
        DataError: A folder holds no such archives, or no case can be used.
    """
    _require_archives(folders)
    selections = select(folders, split, splits, deal_splits=splits is None)
    samples, skipped = [], [entry for each in selections for entry in each.skipped]
    for each in selections:
        whole, parts = whole_cases(each.listing, each.samples)
        samples += whole
        skipped += parts
    start = perf_counter()
    model = load(checkpoint, architecture).to(best_device())
    load_seconds = perf_counter() - start
    rows = []
    for result in evaluate_cases(Segmenter(model, autocast), samples, skipped, rules, progress):
        row = result.row()
        rows.append({**row, "seconds": load_seconds + row["seconds"]})
    if not rows:
        raise nothing_usable("case", split, selections, skipped)
    report_skipped(skipped)
    return {
        "checkpoint": str(checkpoint),
        "split": split,
        "skipped": len(skipped),
        "device": device_name(device_of(model)),
        "threads": torch.get_num_threads(),
        "load_seconds": load_seconds,
        **modality_figures(rows),
        "cases": rows,
        **cost_metrics(model.spec),
    }


def _require_archives(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not isinstance(reader_of(folder), NpzFolders):
            raise DataError(
                f"{folder}: no .npz archives of the MedSAM challenge with imgs and gts, which --by modality needs"
            )


def modality_figures(rows: Rows) -> dict[str, Any]:
    """Return the means of `Result.row` by modality, in the order of their names, and the mean of these means.

    `intervals` are 95 % bootstrap intervals over cases. A modality with a single case has none, and then neither has
    the overall mean.

    Args:
        rows: One for each case.
    """
    table = pd.DataFrame(rows)
    scores = [field.name for field in fields(Scores)]
    modalities: dict[str, dict[str, Any]] = {}
    for modality, part in table.groupby("modality"):
        means = {name: float(part[name].mean()) for name in (*scores, "seconds")}
        modalities[str(modality)] = _counted(part) | means | {"intervals": _intervals(part, scores)}
    overall = {name: fmean(each[name] for each in modalities.values()) for name in (*scores, "seconds")}
    return {
        "modalities": modalities,
        "overall": _counted(table) | overall | {"intervals": _intervals(table, scores)},
    }


def _counted(part: pd.DataFrame) -> dict[str, Any]:
    return {"cases": len(part), "objects": int(part["objects"].sum())}


def _intervals(part: pd.DataFrame, scores: Sequence[str]) -> dict[str, list[float] | None]:
    if part["modality"].value_counts().min() < 2:
        return dict.fromkeys(scores)
    ends = macro_intervals(part[list(scores)], part["modality"]).to_numpy().tolist()
    return dict(zip(scores, ends, strict=True))


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
