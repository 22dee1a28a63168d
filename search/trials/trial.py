"""One trial: sampled parameters in, one row (and a pruned checkpoint) out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcore.data.load import ImageSet
from medcore.models.checkpoint import save
from medcore.models.sam import MedSam
from medcore.models.spec import EncoderSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import mix
from medcore.training.orders import Order
from medcore.training.recovery import RecoveryFile, RecoveryLog, RecoverySettings, Teacher
from medcore.training.schedule import Schedule, Scorer, State, rounds_to, run_schedule, start_of
from results.store.trials import write_images, write_phases, write_row
from search.base.config import RecoveryConfig
from search.base.device import best_device, pin_threads
from search.base.provenance import git_revision, versions
from search.study.inputs import Shared, adapted_model, cost_metrics
from search.trials.attempt import Attempt
from search.trials.ledger import visible_row
from search.trials.leverage import predicted_leverage
from search.trials.meter import Meter
from search.trials.phase_file import Series, load_state, save_state
from search.trials.rescore import scorer
from search.trials.space import EXACT, Plan, decode, domain_of

logger = logging.getLogger(__name__)

#: The trial's own files, beside its row.
CHECKPOINT = "model.safetensors"
PHASE_CHECKPOINT = "phase.safetensors"
RECOVERY_STATE = "recovery.pt"


def run_trial(trial: Mapping[str, Any], shared: Shared) -> dict[str, Any]:
    """Prune and recover as the parameters say, evaluate on the search images, write everything down, return the row.

    Args:
        trial: `trial_id`, `number`, `seed`, `origin`, `params` (flat, see `search.trials.space`), `study_dir`,
            `attempt`.
        shared: inputs common to all trials.

    The state after each phase, and every few steps within recoveries, is kept on disk until the row exists, so a killed
    trial goes on from there. A recovery that had to end early is no failure, because the last good weights are kept,
    nor is one that took its batches in parts for want of memory, but the row's `reason` says so.

    Raises `Superseded` if the trial was begun again elsewhere.
    """
    started, meter = datetime.now(UTC), Meter()
    config = shared.config
    pin_threads(config.search.cpus_per_trial)
    study_dir, trial_id = Path(trial["study_dir"]), str(trial["trial_id"])
    folder = study_dir / "trials" / trial_id
    plan, seed, attempt = decode(trial["params"], domain_of(shared)), int(trial["seed"]), trial["attempt"]
    leverage = predicted_leverage(shared, mix(shared.table, plan.weights, shared.arch), plan.spec)
    meter.mark("leverage")
    model, series = prune_and_recover(plan, shared, seed, folder, meter, attempt)
    images = evaluate(model, shared.search, autocast=config.recovery.autocast)
    meter.mark("evaluation")
    if (ended := visible_row(study_dir, trial_id)) is not None:  # this node was cut off, and another one was as fast
        return ended
    attempt.check()
    save(folder / CHECKPOINT, model.cpu(), {"trial_id": trial_id, "study": config.study, "git": git_revision()})
    write_images(study_dir, trial_id, images)
    meter.mark("saving")
    notes = [str(entry.pop("note")) for entry in series if "note" in entry]
    write_phases(study_dir, trial_id, series + meter.series)
    row = {
        "trial_id": trial_id,
        "number": trial["number"],
        "status": "done",
        "reason": "; ".join(notes) or None,
        "seed": trial["seed"],
        "origin": trial["origin"],
        **{f"param/{name}": value for name, value in trial["params"].items() if name != EXACT},
        **summarise(images),
        **cost_metrics(plan.spec),
        **leverage,
        "weights": dataclasses.asdict(plan.weights),
        "heads": list(plan.spec.heads),
        "channels": list(plan.spec.channels),
        "checkpoint": str(Path("trials") / trial_id / CHECKPOINT),
        "seconds": sum(meter.seconds.values()),
        **{f"seconds/{part}": seconds for part, seconds in meter.seconds.items()},
        **meter.peaks,
        "started": started.isoformat(),
        "finished": datetime.now(UTC).isoformat(),
        "versions": versions(),
        "git": git_revision(),
    }
    write_row(study_dir, row)
    with suppress(OSError):  # the row exists, so nobody reads these files again
        for name in (PHASE_CHECKPOINT, RECOVERY_STATE):
            (folder / name).unlink(missing_ok=True)
    return row


def schedule_of(
    targets: tuple[EncoderSpec, ...],
    recovery: RecoveryConfig,
    lr: float,
    head_share: float,
    order: Order,
    rescore: bool,
) -> Schedule:
    """A schedule with the configured number of recovery steps, split between the families by `head_share`."""
    head_steps = round(recovery.steps * head_share)
    common = RecoverySettings(
        lr=lr,
        batch_size=recovery.batch_size,
        lambdas=recovery.lambdas,
        autocast=recovery.autocast,
        schedule=recovery.lr_schedule,
    )
    return Schedule(
        targets,
        heads_recovery=dataclasses.replace(common, steps=head_steps),
        mlp_recovery=dataclasses.replace(common, steps=recovery.steps - head_steps),
        order=order,
        rescore=rescore,
    )


def prune_and_recover(
    plan: Plan, shared: Shared, seed: int, folder: Path, meter: Meter | None = None, attempt: Attempt | None = None
) -> tuple[MedSam, Series]:
    """The plan's schedule, resumed from what `folder` holds. Returns the model and its phase series."""
    targets = rounds_to(EncoderSpec.dense(shared.arch), plan.spec, plan.rounds)
    schedule = schedule_of(targets, shared.config.recovery, plan.lr, plan.head_share, plan.order, plan.rescore)
    score = scorer(shared.config, shared.calibration, plan.weights, plan.rescore_per_dataset, seed)
    file = folder / PHASE_CHECKPOINT
    if file.is_file():
        state, series = load_state(file)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        state, series = start_of(adapted_model(shared.config), mix(shared.table, plan.weights, shared.arch)), []
    within = RecoveryFile(folder / RECOVERY_STATE, shared.config.recovery.save_every)
    return run_recorded(
        schedule, state, shared.calibration, shared.teacher, seed, score, file, within, series, meter, attempt
    )


def run_recorded(
    schedule: Schedule,
    state: State,
    images: ImageSet,
    teacher: Teacher,
    seed: int,
    score: Scorer | None = None,
    file: Path | None = None,
    within: RecoveryFile | None = None,
    series: Series | None = None,
    meter: Meter | None = None,
    attempt: Attempt | None = None,
) -> tuple[MedSam, Series]:
    """Run a schedule on the best device; losses and what went wrong go to `series`.

    The state goes to `file` after each phase, and to `within` in the middle of recoveries. `meter` is told of each
    phase: `scoring`, `pruning` or `recovery`, and `saving`. Raises `Superseded` after a phase if `attempt` no longer
    counts.
    """
    series = [] if series is None else series

    def on_phase(name: str, current: State, log: RecoveryLog | None) -> None:
        if meter is not None:
            meter.mark("recovery" if log is not None else "scoring" if name.endswith("score") else "pruning")
        if log is not None:
            series.extend(
                {"phase": name, "step": step, "name": "loss", "value": loss} for step, loss in enumerate(log.losses)
            )
            for kind, problem in (("stopped_early", log.stopped), ("split_batches", log.split)):
                if problem is not None:
                    note = f"{name} ended early: {problem}" if kind == "stopped_early" else f"{name}: {problem}"
                    logger.warning("%s", note)
                    series.append({"phase": name, "step": log.steps, "name": kind, "value": 1.0, "note": note})
        if attempt is not None:
            attempt.check()
        if file is not None:
            save_state(file, current, series)
        if within is not None:
            within.remove()
        if meter is not None:
            meter.mark("saving")

    state = dataclasses.replace(state, model=state.model.to(best_device()))
    end = run_schedule(schedule, state, images, teacher, seed, score, on_phase, file=within)
    return end.model, series
