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
    """Metrics of a checkpoint on one split of image/mask folders, with its cost; exact boxes.

    splits: folder with a study's saved splits, which is read only; without it, parts that the folders' manifests do
    not have are dealt out for this call, with a warning.
    """
    model = load(checkpoint, architecture)
    images, skipped = load_image_set(
        folders, split, model.arch.img_size, save_splits=splits, deal_splits=splits is None
    )
    report_skipped(skipped)
    rows = evaluate_model(model.to(best_device()), images, autocast=autocast)
    head = {"checkpoint": str(checkpoint), "split": split, "images": len(rows), "skipped": len(skipped)}
    return head | summarise(rows) | cost_metrics(model.spec)
