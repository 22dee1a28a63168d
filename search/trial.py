"""One trial: sampled parameters in, one row (and a pruned checkpoint) out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcore.checkpoint import load, read_info, save
from medcore.evaluate import evaluate, summarise
from medcore.groups import PerGroup
from medcore.masks import select
from medcore.recovery import RecoveryLog, RecoverySettings
from medcore.sam import MedSam
from medcore.schedule import CascadeSettings, cascade
from medcore.scores import mix
from results.trials import write_images, write_phases, write_row
from search.config import RecoveryConfig
from search.device import best_device, pin_threads
from search.provenance import git_revision, versions
from search.space import Plan, decode
from search.study import Shared, adapted_model, cost_metrics

#: The trial's own files, beside its row.
CHECKPOINT = "model.safetensors"
PHASE_CHECKPOINT = "phase.safetensors"


def run_trial(trial: Mapping[str, Any], shared: Shared) -> dict[str, Any]:
    """Prune and recover as the parameters say, evaluate on the search images, write everything down, return the row.

    Args:
        trial: `trial_id`, `number`, `seed`, `origin`, `params` (flat, see `search.space`) and `study_dir`.
        shared: inputs common to all trials.

    The state after each phase is kept on disk until the row exists, so a killed trial goes on from there.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    config = shared.config
    pin_threads(config.search.cpus_per_trial)
    study_dir, trial_id = Path(trial["study_dir"]), str(trial["trial_id"])
    folder = study_dir / "trials" / trial_id
    plan = decode(trial["params"], config, shared.arch, shared.datasets)
    masks = select(mix(shared.table, plan.weights, shared.arch), plan.spec)
    model, series = prune_and_recover(plan, masks, shared, int(trial["seed"]), folder)
    images = evaluate(model, shared.search, autocast=config.recovery.autocast)
    save(folder / CHECKPOINT, model.cpu(), {"trial_id": trial_id, "study": config.study, "git": git_revision()})
    row = {
        "trial_id": trial_id,
        "number": trial["number"],
        "status": "done",
        "reason": None,
        "seed": trial["seed"],
        "origin": trial["origin"],
        **{f"param/{name}": value for name, value in trial["params"].items() if name != "budget"},
        **summarise(images),
        **cost_metrics(plan.spec),
        "heads": list(plan.spec.heads),
        "channels": list(plan.spec.channels),
        "checkpoint": str(Path("trials") / trial_id / CHECKPOINT),
        "seconds": time.perf_counter() - clock,
        "started": started.isoformat(),
        "finished": datetime.now(UTC).isoformat(),
        "versions": versions(),
        "git": git_revision(),
    }
    write_images(study_dir, trial_id, images)
    write_phases(study_dir, trial_id, series)
    write_row(study_dir, row)
    (folder / PHASE_CHECKPOINT).unlink(missing_ok=True)
    return row


def recovery_settings(recovery: RecoveryConfig, lr: float, head_share: float) -> CascadeSettings:
    """Split the configured number of steps between the two recovery phases."""
    head_steps = round(recovery.steps * head_share)
    common = RecoverySettings(
        lr=lr,
        batch_size=recovery.batch_size,
        lambdas=recovery.lambdas,
        autocast=recovery.autocast,
        schedule=recovery.lr_schedule,
    )
    return CascadeSettings(
        heads_recovery=replace(common, steps=head_steps),
        mlp_recovery=replace(common, steps=recovery.steps - head_steps),
        order=recovery.order,
    )


def prune_and_recover(
    plan: Plan, masks: PerGroup, shared: Shared, seed: int, folder: Path
) -> tuple[MedSam, list[dict[str, Any]]]:
    """The cascade, resumed after the last phase that `folder` holds. Returns the model and its phase series."""
    config, state = shared.config, folder / PHASE_CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    done, series, model = 0, [], adapted_model(config)
    if state.is_file():
        info = read_info(state)
        done, series, model = int(info["phases_done"]), json.loads(info["series"]), load(state)

    def on_phase(name: str, current: MedSam, log: RecoveryLog | None) -> None:
        nonlocal done
        done += 1
        if log is not None:
            series.extend(
                {"phase": name, "step": step, "name": "loss", "value": loss} for step, loss in enumerate(log.losses)
            )
            if log.stopped is not None:
                series.append({"phase": name, "step": log.steps, "name": "stopped_early", "value": 1.0})
        save(state, current, {"phases_done": str(done), "series": json.dumps(series)})

    pruned = cascade(
        model.to(best_device()),
        masks,
        shared.calibration,
        shared.teacher,
        recovery_settings(config.recovery, plan.lr, plan.head_share),
        seed=seed,
        on_phase=on_phase,
        done=done,
    )
    return pruned, series
