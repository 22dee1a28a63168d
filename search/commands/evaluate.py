"""`medcore evaluate`: metrics of a checkpoint on image folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcore.data.load import load_image_set
from medcore.models.checkpoint import load
from medcore.quality.evaluate import evaluate as evaluate_model
from medcore.quality.evaluate import summarise
from search.base.device import best_device
from search.study.inputs import cost_metrics, report_skipped


def evaluate(
    checkpoint: Path,
    folders: Sequence[Path],
    split: str,
    architecture: str | None = None,
    autocast: bool = False,
    splits: Path | None = None,
) -> dict[str, Any]:
    """Return a checkpoint's cost and its metrics on one split of image folders.

    The prompts are exact boxes.

    Args:
        checkpoint: File of the model.
        folders: Data folders, with images/ and masks/ each.
        split: Name of the split.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.
        autocast: Run the model in bfloat16.
        splits: Folder with a study's saved splits, which is only read. Without it, splits that a data folder does not
            define are drawn for this call, with a warning.
    """
    model = load(checkpoint, architecture)
    images, skipped = load_image_set(
        folders, split, model.arch.img_size, save_splits=splits, deal_splits=splits is None
    )
    report_skipped(skipped)
    rows = evaluate_model(model.to(best_device()), images, autocast=autocast)
    head = {"checkpoint": str(checkpoint), "split": split, "images": len(rows), "skipped": len(skipped)}
    return head | summarise(rows) | cost_metrics(model.spec)
