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

from medcore.budgets.rule import MIN_HEADS, rule, uniform
from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.masks import select
from medcore.models.prune import prune
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture, EncoderSpec
from medcore.quality.evaluate import low_logits
from medcore.quality.leverage import (
    HEAD_SPARSITIES,
    LEAST_POINTS,
    MLP_SPARSITIES,
    TAUS,
    GridStep,
    Point,
    boundary_zone,
    grid_points,
    grid_steps,
    step_leverage,
    summary,
)
from medcore.scoring.criteria import block_sensitivity, mix
from medcore.scoring.fisher import Progress
from medcore.scoring.score_table import ScoreTable
from results.plots.leverage_plot import save_leverage_plot
from results.store.files import write_by_rename
from search.base.config import Config, scoring_weights
from search.base.device import best_device
from search.base.provenance import git_revision
from search.study.inputs import adapted_model, calibration_images, load_split
from search.study.scoring import score_table


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

    Returns: what `leverage.json` holds: settings, counts and, by τ, `medcore.quality.leverage.summary`.

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
