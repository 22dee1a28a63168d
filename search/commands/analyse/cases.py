"""What an analysis measures: cases to run and the work of one case (method §3, §4, §8, §10).

Cases differ in the scores that rank groups, in the FLOPs left, and in the seed, which draws the calibration images and
the recovery's batches. Budgets are uniform, so that only the choice within blocks differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from medcore.budgets.rule import uniform_to_target
from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.masks import select
from medcore.models.prune import prune
from medcore.quality.evaluate import evaluate, evaluate_logits, low_logits, summarise
from medcore.quality.leverage import TAUS, boundary_displacement, boundary_zone, upsample
from medcore.quality.metrics import hd95
from medcore.scoring.criteria import CRITERIA, ScoringWeights, mix
from medcore.scoring.fisher import Progress
from medcore.training.schedule import start_of
from results.store.trials import write_images, write_row
from search.base.config import Config, scoring_weights
from search.base.device import best_device, pin_threads
from search.base.provenance import git_revision
from search.study.inputs import Shared, adapted_model, cost_metrics, load_split
from search.study.prepare import prepare
from search.trials.trial import run_recorded, schedule_of

#: FLOPs left in the analyses of criteria, and the milder ones among those of displacements.
FRACTIONS = {"criteria": (0.3, 0.15), "ablation": (0.3, 0.15), "displacement": (0.95, 0.9, 0.8, 0.6, 0.4, 0.2)}


@dataclass(frozen=True)
class Inputs:
    """What the cases of a study share.

    Attributes:
        by_seed: with that seed's calibration images, scores and teacher.
        report: images that no search has used. dense_logits: the unpruned model's, float32 (N, low, low).
    """

    by_seed: dict[int, Shared]
    report: ImageSet
    dense_logits: np.ndarray


def gather(config: Config, seeds: Sequence[int], progress: Progress | None = None) -> Inputs:
    """Score once per seed; the report images, which no search has used, are the same for all."""
    model = adapted_model(config)
    report = load_split(config, config.data.report_split, model.arch.img_size, None)
    by_seed = {seed: prepare(config.model_copy(update={"seed": seed}), report, progress) for seed in seeds}
    # in float32: the differences between two models are small against their logits
    dense = low_logits(model.to(best_device()), report)
    model.cpu()
    return Inputs(by_seed, report, dense)


def variants(kind: str, config: Config) -> dict[str, ScoringWeights]:
    """The scores that an analysis compares, by name; the first is MedCore's own."""
    own = replace(scoring_weights(config.scoring), criterion="medcore", blend=1.0)
    if kind == "criteria":
        return {name: replace(own, criterion=name) for name in CRITERIA}
    if kind == "displacement":  # a good, a middling and a bad choice: displacements of all sizes
        return {name: replace(own, criterion=name) for name in ("medcore", "magnitude", "random")}
    if own.boundary_weight == 0 or 0.0 not in config.scoring.nodes:
        raise MedcoreError("ablation: needs a scoring.boundary_weight other than 0, and 0 among scoring.nodes")
    found = {}
    for w in (own.boundary_weight, 0.0):
        for name, alpha in (("both", None), ("zero only", 1.0), ("reset only", 0.0)):
            found[f"{name}, w = {w:g}"] = replace(own, alpha_heads=alpha, alpha_channels=alpha, boundary_weight=w)
    return found


def cases(kind: str, config: Config, seeds: Sequence[int], fractions: Sequence[float]) -> list[dict[str, Any]]:
    """One point for `run_search` a case."""
    return [
        {
            "origin": name,
            "params": {"variant": name, "fraction": fraction, "case_seed": seed, "weights": asdict(weights)},
        }
        for seed in seeds
        for fraction in fractions
        for name, weights in variants(kind, config).items()
    ]


def compare_criteria(trial: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Prune, measure, recover, measure again on the report images; the row has both, `images` has a phase column."""
    started, params = datetime.now(UTC), trial["params"]
    shared = inputs.by_seed[params["case_seed"]]
    config = shared.config
    pin_threads(config.search.cpus_per_trial)
    weights = replace(ScoringWeights(**params["weights"]), seed=params["case_seed"])
    spec = uniform_to_target(
        shared.arch, params["fraction"], config.search.cost, multiple=config.budget.channel_multiple
    )
    scores = mix(shared.table, weights, shared.arch)
    cut = prune(adapted_model(config), select(scores, spec)).to(best_device())
    measured = {"pruned": evaluate(cut, inputs.report, autocast=config.recovery.autocast)}
    schedule = schedule_of(
        (spec,), config.recovery, config.recovery.lr, config.recovery.head_share, config.schedule.order, rescore=False
    )
    state = start_of(adapted_model(config), scores)
    recovered, series = run_recorded(schedule, state, shared.calibration, shared.teacher, params["case_seed"])
    measured["recovered"] = evaluate(recovered, inputs.report, autocast=config.recovery.autocast)
    images = [{"phase": phase, **row} for phase, rows in measured.items() for row in rows]
    row = _row(trial, started) | cost_metrics(spec)
    row["reason"] = "; ".join(entry["note"] for entry in series if entry.get("note")) or None
    for phase, rows in measured.items():
        row |= {f"{phase}/{name}": value for name, value in summarise(rows).items() if "/" not in name}
    return _written(trial, row | {"boundary_f1": row["recovered/boundary_f1"]}, images)


def compare_displacements(trial: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Predicted and measured displacement of the boundary by pruning alone, image by image, and what metrics lose.

    predicted: 95th percentile of |δz|/|∇z| near the true boundary; measured: HD95 between the dense and the pruned
    model's masks; both in pixels of the model's square. lost_*: dense less pruned (HD95: pruned less dense), at
    original size.
    """
    started, params = datetime.now(UTC), trial["params"]
    shared = inputs.by_seed[params["case_seed"]]
    config, report = shared.config, inputs.report
    pin_threads(config.search.cpus_per_trial)
    weights = replace(ScoringWeights(**params["weights"]), seed=params["case_seed"])
    spec = uniform_to_target(
        shared.arch, params["fraction"], config.search.cost, multiple=config.budget.channel_multiple
    )
    cut = prune(adapted_model(config), select(mix(shared.table, weights, shared.arch), spec)).to(best_device())
    logits = low_logits(cut, report)
    predicted = boundary_displacement(inputs.dense_logits, logits, boundary_zone(report.masks, TAUS[0]))
    pairs = zip(inputs.dense_logits, logits, strict=True)
    measured = [_contour_distance(old, new, shared.arch.img_size) for old, new in pairs]
    before, after = (evaluate_logits(each, report) for each in (inputs.dense_logits, logits))
    images = [
        {
            "dataset": old["dataset"],
            "name": old["name"],
            "predicted_px": float(predicted[index]),
            "measured_px": measured[index],
            "lost_boundary_f1": old["boundary_f1"] - new["boundary_f1"],
            "lost_hd95": new["hd95"] - old["hd95"],
        }
        for index, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    row = _row(trial, started) | cost_metrics(spec)
    for name in ("predicted_px", "measured_px", "lost_boundary_f1", "lost_hd95"):
        row[name] = float(np.nanmean([image[name] for image in images]))
    return _written(trial, row | {"boundary_f1": fmean(image["boundary_f1"] for image in after)}, images)


def _contour_distance(z_dense: np.ndarray, z_pruned: np.ndarray, side: int) -> float:
    one, other = upsample(np.stack([z_dense, z_pruned]), side) > 0
    return hd95(one, other)


def _row(trial: Mapping[str, Any], started: datetime) -> dict[str, Any]:
    params = trial["params"]
    return {
        "trial_id": trial["trial_id"],
        "number": trial["number"],
        "status": "done",
        "reason": None,
        "seed": trial["seed"],
        "origin": trial["origin"],
        "variant": params["variant"],
        "fraction": params["fraction"],
        "case_seed": params["case_seed"],
        "started": started.isoformat(),
        "git": git_revision(),
    }


def _written(trial: Mapping[str, Any], row: dict[str, Any], images: list[dict[str, Any]]) -> dict[str, Any]:
    finished = datetime.now(UTC)
    seconds = (finished - datetime.fromisoformat(row["started"])).total_seconds()
    row |= {"finished": finished.isoformat(), "seconds": seconds}
    study = Path(trial["study_dir"])
    trial["attempt"].check()
    write_images(study, row["trial_id"], images)
    write_row(study, row)
    return row
