"""The commands that work on one model: adapt, score, evaluate, cost, predict. Each is a function here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcore.checkpoint import load, save
from medcore.data import load_image_set
from medcore.errors import MedcoreError
from medcore.evaluate import evaluate as evaluate_model
from medcore.evaluate import summarise
from medcore.fisher import Progress
from medcore.imagefile import UNREADABLE, read_image
from medcore.sam import predictor
from medcore.score_table import ScoreTable
from medcore.scores import CRITERIA, mix
from medcore.spec import EncoderSpec, resolve_architecture
from results.heatmap import save_score_heatmaps
from search.config import Config
from search.device import best_device
from search.provenance import git_revision
from search.scoring import score_table
from search.space import scoring_weights
from search.study import (
    adapted_model,
    calibration_images,
    cost_metrics,
    load_split,
    make_folder,
    report_skipped,
)
from search.training import fit


def adapt(config: Config, on_epoch: Callable[..., None] | None = None, ray_address: str | None = None) -> Path:
    """General checkpoint and training images in, medical checkpoint out (`adapt.out`). Returns its path.

    ray_address: of a running cluster, for `adapt.workers` > 1.

    Raises `MedcoreError` if the training stopped before its first epoch was done; a later stop is a logged warning.
    """
    settings = config.adapt
    model = load(config.model.base, config.model.architecture)
    make_folder(settings.out.parent)
    log = fit(
        "adapt",
        settings,
        model,
        load_split(config, settings.train_split, model.arch.img_size, None),
        load_split(config, settings.val_split, model.arch.img_size, None),
        config.seed,
        settings.out.with_suffix(".state"),
        on_epoch,
        ray_address,
    )
    info = {"origin": str(config.model.base), "log": json.dumps(dataclasses.asdict(log)), "git": git_revision()}
    save(settings.out, model.cpu(), info)
    return settings.out


def score(config: Config, progress: Progress | None = None) -> tuple[Path, Path]:
    """Score table (cached by its inputs) and heat maps of all criteria. Returns both files."""
    adapted = adapted_model(config)
    calibration = calibration_images(config, adapted.arch.img_size)
    table, path = score_table(config, calibration, progress)
    picture = path.with_suffix(".png")
    save_heatmaps(config, table, picture)
    return path, picture


def save_heatmaps(config: Config, table: ScoreTable, path: Path) -> None:
    """A picture of MedCore's scores, of their two parts and of every baseline criterion."""
    arch, own = adapted_model(config).arch, replace(scoring_weights(config.scoring), criterion="medcore", blend=1.0)
    shown = {"medcore": own}
    for name, alpha in (("zero scores", 1.0), ("reset scores", 0.0)):
        shown[name] = replace(own, alpha_heads=alpha, alpha_channels=alpha)
    shown |= {name: replace(own, criterion=name) for name in CRITERIA if name not in ("medcore", "random")}
    save_score_heatmaps({name: mix(table, weights, arch) for name, weights in shown.items()}, path)


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


def cost(target: str) -> dict[str, Any]:
    """Parameters and both FLOPs figures of an architecture's name, its JSON file or a checkpoint."""
    path = Path(target)
    if path.suffix in (".pth", ".pt", ".safetensors"):
        spec = load(path).spec
    else:
        spec = EncoderSpec.dense(resolve_architecture(target))
    return {"model": target, **cost_metrics(spec), "heads": list(spec.heads), "channels": list(spec.channels)}


def predict(
    checkpoint: Path, image: Path, box: tuple[float, float, float, float], out: Path, architecture: str | None = None
) -> float:
    """Segment what the box (X0,Y0,X1,Y1, pixels of the original image) holds; write a 0/255 mask, return its share."""
    try:
        pixels = np.asarray(read_image(image))
    except UNREADABLE as error:
        raise MedcoreError(
            f"{image}: cannot be read as an image ({error}); give a PNG, JPEG, BMP, TIFF or WebP file"
        ) from None
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise MedcoreError(
            f"--box {x0:g},{y0:g},{x1:g},{y1:g} does not lie in {image} ({width}×{height}); give X0,Y0,X1,Y1"
        )
    sam = predictor(load(checkpoint, architecture).to(best_device()))
    sam.set_image(pixels)
    masks, _, _ = sam.predict(box=np.asarray(box), multimask_output=False)
    make_folder(out.parent)
    try:
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(out)
    except (OSError, ValueError) as error:
        raise MedcoreError(f"{out}: cannot write the mask ({error})") from None
    return float(masks[0].mean())
