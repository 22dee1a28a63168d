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

from medcore.budgets.limits import Limits
from medcore.budgets.rule import rule, uniform
from medcore.data.frames.frame import Frame
from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, ConfigError
from medcore.models.cost import cost
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.evaluate import low_logits
from medcore.quality.leverage import (
    HEAD_SPARSITIES,
    LEAST_POINTS,
    MLP_SPARSITIES,
    TAUS,
    GridStep,
    Point,
    Sizes,
    boundary_zone,
    grid_points,
    grid_steps,
    step_leverage,
    summary,
)
from medcore.scoring.criteria import block_sensitivity, mix
from medcore.scoring.score_table import ScoreTable
from results.plots.leverage_plot import save_leverage_plot
from results.store.files import write_by_rename
from search.base.config import Config
from search.base.device import on_device
from search.base.provenance import git_revision
from search.commands.sections import study_jobs
from search.study.inputs import adapted_model, search_images
from search.study.needs import Needs
from search.study.prepare import Report, statistics


@dataclass(frozen=True, eq=False)
class Pruned:
    """A grid point: widths of the pruned encoder and logits (N, low, low)."""

    spec: ModelSpec
    logits: npt.NDArray[np.float32]


def leverage(config: Config, out_folder: Path, report: Report | None = None, images: int = 32) -> dict[str, Any]:
    """Prune to every grid point and measure how each step moves the boundary.

    There is no recovery. The configuration's own scores rank the groups. With `budget.allocator: rule` the rule
    distributes a sparsity over the blocks, with any other allocator every block gets the same share. No block is
    protected. Uniform budgets round in every block, so neighbouring grid points with few groups can coincide. Such
    steps remove nothing and are skipped.

    Args:
        config: Checkpoints, images and settings.
        out_folder: Receives `leverage.parquet` (one row per step and τ), `leverage.json` and `leverage.png`.
        report: Called with the name of each job, and its numbers of finished and of all images or grid points.
        images: Number of search images to use, drawn by the configuration's seed; all if there are fewer.

    Returns:
        The content of `leverage.json`: settings, counts and, by τ, `medcore.quality.leverage.summary`.

    Raises:
        MedcoreError: `images` is below 1, the model is pruned already, or no step could be measured.
    """
    if images < 1:
        raise ConfigError(f"leverage: needs at least one image, got {images}")
    adapted = adapted_model(config.model)
    if not adapted.spec.is_dense:
        raise CheckpointError(f"{config.model.adapted}: leverage is measured from the dense model; this one is pruned")
    needs = Needs(fisher=True, profile="profile" in config.scoring.weights().needs)
    table = statistics(study_jobs(config, recovers=False), needs, report)
    chosen = _some_images(config, adapted.arch.frame, images)
    with on_device(adapted):
        rows = _walk(adapted, config, table, chosen, report)
    if not rows:
        raise CheckpointError("leverage: no step could be measured; the logits are constant or not finite everywhere")
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


def grid_budget(config: Config, arch: Architecture, sensitivity: np.ndarray, point: Point) -> ModelSpec:
    """Return the budget of one grid point, by the rule or uniform.

    `sensitivity` is (L,).
    """
    if not any(family.lean for family in arch.families):
        raise ConfigError(f"leverage: {arch.name} has no families to set against each other; parts must hold encoder")
    # the families that `lean` sets against each other
    first = next((family for family in arch.families if family.lean > 0), arch.families[0])
    last = next((family for family in arch.families if family.lean < 0), arch.families[-1])
    sparsity = dict(zip((first.name, last.name), point, strict=True))
    if _allocator(config) == "uniform":
        return uniform(arch, {family: 1 - share for family, share in sparsity.items()})
    # with fewer than ten groups a block, one kept in each would put the grid's last row out of reach
    width = max(site.width for site in arch.sites if site.family == first)
    least = min(first.least_count, int((1 - max(HEAD_SPARSITIES)) * width + 1e-9))
    return rule(arch, sparsity, sensitivity, Limits(least_count={first.name: least}))


def _allocator(config: Config) -> str:
    return "rule" if config.budget.allocator == "rule" else "uniform"


def _some_images(config: Config, size: int | Frame, count: int) -> ImageSet:
    images = search_images(config.datasets, size)
    drawn = np.random.default_rng(config.seed).permutation(len(images))[:count]
    return images.subset(np.sort(drawn))


def _walk(
    adapted: MedSam, config: Config, table: ScoreTable, images: ImageSet, report: Report | None
) -> list[dict[str, Any]]:
    """Return the rows of all steps that remove anything.

    About one row of the grid is in memory at a time.
    """
    arch, weights = adapted.arch, config.scoring.weights()
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
                rows += _measure(step, known[step.start], model, zones, images.inner)
        later = set(points[done:])
        needed = {step.start for step in steps if step.end in later}
        known = {start: known[start] for start in known.keys() & needed}
        if report is not None:
            report("grid", done, len(points))
    return rows


def _measure(
    step: GridStep, a: Pruned, b: Pruned, zones: dict[float, npt.NDArray[np.bool_]], inner: Sizes
) -> list[dict[str, Any]]:
    """Return one row per τ.

    The row is None if a step removes too little or has no usable image.
    """
    dense = cost(ModelSpec.dense(a.spec.arch)).encoder_params
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
        for tau, found in step_leverage(a.logits, b.logits, zones, removed, inner).items()
        if found.images
    ]
