"""`medcore leverage`: boundary leverage over a grid of sparsities, head steps against MLP steps (method §8)."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medcore.budgets import MIN_HEADS, rule, uniform
from medcore.cost import cost
from medcore.data import ImageSet
from medcore.errors import MedcoreError
from medcore.fisher import Progress
from medcore.groups import PerGroup
from medcore.leverage import (
    HEAD_SPARSITIES,
    LEAST_POINTS,
    MLP_SPARSITIES,
    TAUS,
    GridStep,
    Point,
    boundary_zone,
    grid_points,
    grid_steps,
    schedule_leverage,
    step_leverage,
    summary,
)
from medcore.masks import select
from medcore.memory import Parts
from medcore.optimisation import device_of, mixed_precision
from medcore.prune import prune
from medcore.sam import MedSam
from medcore.score_table import ScoreTable
from medcore.scores import block_sensitivity, mix
from medcore.spec import Architecture, EncoderSpec
from results.files import write_by_rename
from results.leverage_plot import save_leverage_plot
from search.config import Config
from search.device import best_device
from search.provenance import git_revision
from search.scoring import score_table
from search.space import scoring_weights
from search.study import Shared, adapted_model, calibration_images, load_split


@dataclass(frozen=True, eq=False)
class Pruned:
    """A grid point: what is left of the encoder and what it says, low-resolution logits (N, low, low)."""

    spec: EncoderSpec
    logits: npt.NDArray[np.float32]


def leverage(config: Config, out_folder: Path, progress: Progress | None = None, images: int = 32) -> dict[str, Any]:
    """Prune to every grid point without recovery and measure what each step does to the boundary.

    Groups go by the configuration's own scores; `budget.allocator: rule` distributes a sparsity over blocks as the
    rule does, any other allocator uniformly; no block is protected. Uniform budgets round in every block, so
    with few heads neighbours can coincide; such steps remove nothing and are skipped.

    Args:
        out_folder: receives `leverage.parquet` (one row a step and τ), `leverage.json` and `leverage.png`.
        progress: called with finished and all images while scoring, then with finished and all grid points.
        images: how many of the study's search images, drawn by the configuration's seed; all if there are fewer.

    Returns: what `leverage.json` holds: settings, counts and, by τ, `medcore.leverage.summary`.

    Raises:
        MedcoreError: no image asked for, or no step could be measured.
    """
    if images < 1:
        raise MedcoreError(f"leverage: needs at least one image, got {images}")
    adapted = adapted_model(config)
    table, _ = score_table(config, calibration_images(config, adapted.arch.img_size), progress)
    chosen = _some_images(config, adapted.arch.img_size, images)
    rows = _walk(adapted.to(best_device()), config, table, chosen, progress)
    adapted.cpu()
    if not rows:
        raise MedcoreError("leverage: no step could be measured; the logits are constant or not finite everywhere")
    measured = len({(row["kind"], row["head_from"], row["mlp_from"]) for row in rows})
    result = {
        "study": config.study,
        "architecture": adapted.arch.name,
        "allocator": _allocator(config),
        "head_sparsities": HEAD_SPARSITIES,
        "mlp_sparsities": MLP_SPARSITIES,
        "images": len(chosen),
        "seed": config.seed,
        "steps": measured,
        "skipped_steps": len(grid_steps()) - measured,
        "tau": summary(rows),
        "git": git_revision(),
    }
    parquet = io.BytesIO()
    pd.DataFrame(rows).to_parquet(parquet, index=False)
    write_by_rename(out_folder / "leverage.parquet", parquet.getvalue())
    save_leverage_plot(rows, out_folder / "leverage.png")
    write_by_rename(out_folder / "leverage.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    return result


def low_logits(model: MedSam, images: ImageSet, batch_size: int = 8, autocast: bool = False) -> npt.NDArray[np.float32]:
    """Low-resolution logits of all images, prompted with the exact boxes: float32 (N, low, low)."""
    device = device_of(model)
    batches: list[npt.NDArray[np.float32]] = []

    def answers(parts: list[slice]) -> list[npt.NDArray[np.float32]]:
        found = []
        for chosen in (indices[part] for part in parts):
            with torch.inference_mode(), mixed_precision(device, autocast):
                logits = model.segment(images.tensor(chosen).to(device), images.box_tensor(chosen).to(device))
            found.append(logits[:, 0].float().cpu().numpy())
        return found

    parts = Parts()
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        batches += parts.run(len(indices), answers)
    return np.concatenate(batches)


def predicted_leverage(shared: Shared, scores: PerGroup, spec: EncoderSpec) -> dict[str, float]:
    """Leverage of cutting to `spec` in one go, before any recovery, on some calibration images; {} where switched off.

    The dense model's logits are the teacher's, so this costs one short evaluation of the pruned model.
    """
    count = min(shared.config.search.leverage_images, len(shared.calibration))
    if count == 0:
        return {}
    rows = np.linspace(0, len(shared.calibration) - 1, count).round().astype(np.intp)
    images = shared.calibration.subset(rows)
    model = prune(adapted_model(shared.config), select(scores, spec)).to(best_device())
    logits = low_logits(model, images, autocast=shared.config.recovery.autocast)
    dense = EncoderSpec.dense(shared.arch)
    removed = 100 * (1 - cost(spec).encoder_params / cost(dense).encoder_params)
    return schedule_leverage(shared.teacher.logits[rows, 0].astype(np.float32), logits, images.masks, removed)


def grid_budget(config: Config, arch: Architecture, sensitivity: np.ndarray, point: Point) -> EncoderSpec:
    """The budget of one grid point, by the rule or uniform; `sensitivity`: (L,)."""
    heads, mlp = point
    if _allocator(config) == "uniform":
        return uniform(arch, 1 - heads, 1 - mlp)
    # with fewer than ten heads a block, one kept in each would put the grid's last row out of reach
    min_heads = min(MIN_HEADS, int((1 - max(HEAD_SPARSITIES)) * arch.num_heads + 1e-9))
    return rule(arch, heads, mlp, sensitivity, min_heads=min_heads)


def _allocator(config: Config) -> str:
    return "rule" if config.budget.allocator == "rule" else "uniform"


def _some_images(config: Config, size: int, count: int) -> ImageSet:
    search = load_split(config, config.data.search_split, size, config.data.search_per_dataset)
    drawn = np.random.default_rng(config.seed).permutation(len(search))[:count]
    return search.subset(np.sort(drawn))


def _walk(
    adapted: MedSam, config: Config, table: ScoreTable, images: ImageSet, progress: Progress | None
) -> list[dict[str, Any]]:
    """Rows of all steps that remove anything; about one row of the grid is in memory at a time."""
    arch, weights = adapted.arch, scoring_weights(config.scoring)
    scores, sensitivity = mix(table, weights, arch), block_sensitivity(table, weights)
    zones = {tau: boundary_zone(images.masks, tau) for tau in TAUS}
    points, steps = grid_points(), grid_steps()
    known: dict[Point, Pruned] = {}
    rows: list[dict[str, Any]] = []
    for done, point in enumerate(points, start=1):
        spec = grid_budget(config, arch, sensitivity, point)
        # neighbours of equal budgets are one model
        model = next((other for other in known.values() if other.spec == spec), None)
        if model is None:
            smaller = prune(adapted, select(scores, spec))
            model = Pruned(spec, low_logits(smaller, images, autocast=config.recovery.autocast))
        known[point] = model
        for step in steps:
            if step.end == point:
                rows += _measure(step, known[step.start], model, zones)
        later = set(points[done:])
        needed = {step.start for step in steps if step.end in later}
        known = {start: known[start] for start in known.keys() & needed}
        if progress is not None:
            progress(done, len(points))
    return rows


def _measure(step: GridStep, a: Pruned, b: Pruned, zones: dict[float, npt.NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """One row a τ; none for a step that removes too little or of which no image counts."""
    dense = cost(EncoderSpec.dense(a.spec.arch)).encoder_params
    removed = 100 * (cost(a.spec).encoder_params - cost(b.spec).encoder_params) / dense
    if removed <= LEAST_POINTS:
        return []
    return [
        asdict(step)
        | {
            "delta_params_points": removed,
            "tau": tau,
            "lambda_bd95": found.lambda_bd95,
            "lambda_reg": found.lambda_reg,
            "images": found.images,
            "lambda_bd95_images": (found.displacements / removed).tolist(),
            "lambda_reg_images": (found.changes / removed).tolist(),
        }
        for tau, found in step_leverage(a.logits, b.logits, zones, removed).items()
        if found.images
    ]
