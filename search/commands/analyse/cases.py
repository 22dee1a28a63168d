"""What an analysis measures: the cases to run, and the work of one case (method §3, §4, §8, §10).

Cases differ in the scores that rank groups, in the share of the FLOPs to keep, and in the seed, which draws the
calibration images and the recovery's batches. Budgets are uniform, so that only the choice within blocks differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from medcore.budgets.limits import Limits
from medcore.budgets.targets import uniform_to_target
from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.quality.evaluate import evaluate, evaluate_logits, low_logits, summarise
from medcore.quality.leverage import TAUS, boundary_displacement, boundary_zone, upsample
from medcore.quality.metrics import hd95
from medcore.scoring.criteria import CRITERIA, ScoringWeights, mix
from medcore.training.schedule import start_of
from results.store.trial_row import Provenance, Timing, TrialRow
from results.store.trials import write_images, write_row
from search.base.config import Config
from search.base.device import best_device, on_device
from search.base.provenance import git_revision
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, cost_metrics, load_split
from search.study.needs import ALL
from search.study.prepare import Report, prepare
from search.trials.phases import inputs_of, schedule_of
from search.trials.recorder import run_recorded

#: Shares of the FLOPs to keep. Displacements are also of interest for milder budgets.
FRACTIONS = {"criteria": (0.3, 0.15), "ablation": (0.3, 0.15), "displacement": (0.95, 0.9, 0.8, 0.6, 0.4, 0.2)}


@dataclass(frozen=True)
class Inputs:
    """What the cases of a study share.

    Attributes:
        by_seed: For each seed its calibration images, scores and teacher.
        report: Images that no search has used.
        dense_logits: The unpruned model's logits on `report`, float32 (N, low, low).
    """

    by_seed: dict[int, Shared]
    report: ImageSet
    dense_logits: np.ndarray


def gather(config: Config, seeds: Sequence[int], report_progress: Report | None = None) -> Inputs:
    """Compute all statistics once per seed. All seeds share the report images."""
    model = adapted_model(config.model)
    report = load_split(config.datasets, config.data.report_split, model.arch.frame)
    by_seed: dict[int, Shared] = {}
    for seed in seeds:
        seeded = config.model_copy(update={"seed": seed})
        by_seed[seed] = prepare(trial_settings(seeded), study_jobs(seeded), report, report_progress, needs=ALL)
    # in float32, because the differences between two models are small against their logits
    with on_device(model):
        dense = low_logits(model, report)
    return Inputs(by_seed, report, dense)


def variants(kind: str, config: Config) -> dict[str, ScoringWeights]:
    """Return the scores that an analysis compares, by name.

    The first is MedCore's own.
    """
    own = replace(config.scoring.weights(), criterion="medcore", blend=1.0)
    if kind == "criteria":
        return {name: replace(own, criterion=name) for name in CRITERIA}
    if kind == "displacement":  # a good, a middling and a bad choice: displacements of all sizes
        return {name: replace(own, criterion=name) for name in ("medcore", "magnitude", "random")}
    if own.boundary_weight == 0 or 0.0 not in config.scoring.nodes:
        raise ConfigError("ablation: needs a scoring.boundary_weight other than 0, and 0 among scoring.nodes")
    parts = {}
    for w in (own.boundary_weight, 0.0):
        for name, alpha in (("both", None), ("zero only", 1.0), ("reset only", 0.0)):
            parts[f"{name}, w = {w:g}"] = replace(own, alpha=dict.fromkeys(own.alpha, alpha), boundary_weight=w)
    return parts


def cases(kind: str, config: Config, seeds: Sequence[int], fractions: Sequence[float]) -> list[dict[str, Any]]:
    """Return a point for `run_search` for every case."""
    return [
        {
            "origin": name,
            "params": {"variant": name, "fraction": fraction, "case_seed": seed, "weights": weights.to_dict()},
        }
        for seed in seeds
        for fraction in fractions
        for name, weights in variants(kind, config).items()
    ]


def compare_criteria(trial: Mapping[str, Any], inputs: Inputs) -> TrialRow:
    """Prune, measure, recover and measure again on the report images.

    The row has the metrics of both phases. The table of images has a column with the phase.
    """
    started, params = datetime.now(UTC), trial["params"]
    shared = inputs.by_seed[params["case_seed"]]
    config = shared.settings
    weights = replace(ScoringWeights.from_dict(params["weights"]), seed=params["case_seed"])
    limits = Limits(multiple=config.budget.multiple, current=shared.start)
    spec = uniform_to_target(shared.arch, params["fraction"], config.search.metric, limits)
    scores = mix(shared.table, weights, shared.arch)
    cut = prune(adapted_model(config.model), select(scores, spec)).to(best_device())
    measured = {"pruned": evaluate(cut, inputs.report, autocast=config.recovery.autocast)}
    schedule = schedule_of(
        (spec,),
        config.recovery,
        lr=config.recovery.rate(params["fraction"]),
        head_share=config.recovery.head_share,
        order=config.schedule.order,
        rescore=False,
    )
    state = start_of(adapted_model(config.model), scores)
    recovered, history = run_recorded(schedule, state, inputs_of(shared), params["case_seed"])
    measured["recovered"] = evaluate(recovered, inputs.report, autocast=config.recovery.autocast)
    images = [{"phase": phase, **row} for phase, rows in measured.items() for row in rows]
    metrics = cost_metrics(spec)
    for phase, rows in measured.items():
        metrics |= {f"{phase}/{name}": value for name, value in summarise(rows).items() if "/" not in name}
    metrics["boundary_f1"] = metrics["recovered/boundary_f1"]
    return _write(trial, started, metrics, images, reason="; ".join(history.notes) or None)


def compare_displacements(trial: Mapping[str, Any], inputs: Inputs) -> TrialRow:
    """Compare predicted and measured displacement of the boundary by pruning alone.

    Each row is one image. `predicted_px` is the 95th percentile of |δz|/|∇z| near the true boundary, and `measured_px`
    is HD95 between the masks of the dense and the pruned model, both in pixels of the model's square. `lost_*` is the
    dense model's metric less the pruned one's (for HD95 the reverse), at original size.
    """
    started, params = datetime.now(UTC), trial["params"]
    shared = inputs.by_seed[params["case_seed"]]
    config, report = shared.settings, inputs.report
    weights = replace(ScoringWeights.from_dict(params["weights"]), seed=params["case_seed"])
    limits = Limits(multiple=config.budget.multiple, current=shared.start)
    spec = uniform_to_target(shared.arch, params["fraction"], config.search.metric, limits)
    cut = prune(adapted_model(config.model), select(mix(shared.table, weights, shared.arch), spec)).to(best_device())
    logits = low_logits(cut, report)
    zone = boundary_zone(report.masks, TAUS[0])
    predicted = boundary_displacement(inputs.dense_logits, logits, zone, report.inner)
    measured = contour_distances(inputs.dense_logits, logits, report)
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
    metrics = cost_metrics(spec)
    for name in ("predicted_px", "measured_px", "lost_boundary_f1", "lost_hd95"):
        metrics[name] = float(np.nanmean([image[name] for image in images]))
    metrics["boundary_f1"] = fmean(image["boundary_f1"] for image in after)
    return _write(trial, started, metrics, images)


def contour_distances(z_dense: np.ndarray, z_pruned: np.ndarray, images: ImageSet) -> list[float]:
    """Return HD95 between two models' masks of each image, in pixels of the square.

    Where the square is padded, what lies in the padding does not count.

    Args:
        z_dense: Low-resolution logits of one model, (N, low, low).
        z_pruned: Those of the other.
        images: The images.
    """
    distances = []
    for index, pair in enumerate(zip(z_dense, z_pruned, strict=True)):
        one, other = upsample(np.stack(pair), images.size, images.inner_size(index)) > 0
        distances.append(hd95(one, other))
    return distances


def _write(
    trial: Mapping[str, Any],
    started: datetime,
    metrics: Mapping[str, float],
    images: Sequence[Mapping[str, Any]],
    reason: str | None = None,
) -> TrialRow:
    """Write the files of a case that ends now, and return its row."""
    row = TrialRow.done(
        trial,
        reason=reason,
        params={},
        metrics=metrics,
        extra={name: trial["params"][name] for name in ("variant", "fraction", "case_seed")},
        timing=Timing.since(started),
        provenance=Provenance(git=git_revision()),
    )
    study = Path(trial["study_dir"])
    trial["attempt"].check()
    write_images(study, row.trial_id, images)
    write_row(study, row)
    return row
