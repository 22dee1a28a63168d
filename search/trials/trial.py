"""One trial: sampled parameters in, one row and a pruned checkpoint out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcore.models.checkpoint import save
from medcore.quality.evaluate import summarise
from medcore.scoring.criteria import mix
from results.stats.columns import DENSE, SAMPLED
from results.store.trial_row import Provenance, Timing, TrialRow
from results.store.trials import trial_folder, write_images, write_phases, write_row
from search.base.fidelities import shown_figures
from search.base.phase_keys import PROGRESS
from search.base.provenance import git_revision, versions
from search.study.inputs import Shared
from search.trials.files import CHECKPOINT, remove_state
from search.trials.ledger import visible_row
from search.trials.leverage import predicted_leverage
from search.trials.meter import Meter
from search.trials.phase_result import PhaseResult
from search.trials.phases import Role, average_phases, phases
from search.trials.recorder import Recorder
from search.trials.sampling.space import EXACT, Plan, decode, domain_of


def trial_phases(trial: Mapping[str, Any], shared: Shared) -> Iterator[PhaseResult]:
    """Do one trial, a phase at a time.

    Prune and recover as the parameters say, or take the mean of the weights of earlier trials. Then evaluate, and write
    everything down.

    The state after each phase, and every few steps within recoveries, stays on disk until the row exists, so a killed
    trial continues from there. A recovery that ends early is no failure, because the last good weights are kept. Nor
    is one that splits its batches for want of memory. The row's `reason` says so in both cases.

    Args:
        trial: `trial_id`, `number`, `seed`, `origin`, `params` (flat, see `search.trials.sampling.space`), `averages`,
            `study_dir`, `attempt`.
        shared: Inputs common to all trials.

    Yields:
        The predicted leverage, if it is switched on, then what `phases` or `average_phases` yields, and last the row.

    Raises:
        Superseded: The trial was started again elsewhere.
    """
    started, meter = datetime.now(UTC), Meter()
    study, trial_id, attempt = Path(trial["study_dir"]), str(trial["trial_id"]), trial["attempt"]
    shared = shared.at(trial["params"].get("side"))
    plan = decode(trial["params"], domain_of(shared))
    leverage = predicted_leverage(shared, mix(shared.table, plan.weights, shared.arch), plan.spec)
    meter.mark("leverage")
    if leverage:
        yield PhaseResult("leverage", leverage)
    recorder = Recorder.in_folder(trial_folder(study, trial_id), shared.settings.recovery.save_every, attempt, meter)
    if trial["averages"]:
        model, images = yield from average_phases(study, trial["averages"], shared, recorder)
    else:
        model, images = yield from phases(plan, shared, int(trial["seed"]), recorder, role=_role(trial))
    if (ended := visible_row(study, trial_id)) is not None:  # this node was cut off, and another one was as fast
        yield PhaseResult("row", row=ended)
        return
    attempt.check()
    info = {"trial_id": trial_id, "study": shared.settings.study, "git": git_revision()}
    save(trial_folder(study, trial_id) / CHECKPOINT, model.cpu(), info)
    write_images(study, trial_id, images)
    meter.mark("saving")
    write_phases(study, trial_id, [point.record() for point in recorder.history.points + meter.points])
    plan = dataclasses.replace(plan, spec=model.spec)
    metrics = {**summarise(images), **shared.costs(plan.spec), **leverage}
    row = _row(trial, plan, metrics, recorder, started)
    write_row(study, row)
    remove_state(study, trial_id)
    yield PhaseResult("row", {**metrics, PROGRESS: 100.0}, row)


def _role(trial: Mapping[str, Any]) -> Role:
    """Return what a scheduler may do with a trial.

    Warm starts run to their end, because a comparison needs them. The dense model, budgets that no parameters describe
    and repeats are no standard for others.
    """
    if trial["origin"] == DENSE or not trial["teaches"]:
        return Role.UNWATCHED
    return Role.SAMPLED if trial["origin"] == SAMPLED else Role.ANCHOR


def _row(
    trial: Mapping[str, Any], plan: Plan, metrics: Mapping[str, float], recorder: Recorder, started: datetime
) -> TrialRow:
    """Return the row of a trial that is done now."""
    meter, now = recorder.meter, datetime.now(UTC)
    # a trial that was killed after a look may continue behind it; the look is then on disk only
    shown = shown_figures(Path(trial["study_dir"]), str(trial["trial_id"]))
    return TrialRow.done(
        trial,
        reason="; ".join(recorder.history.notes) or None,
        params={name: value for name, value in trial["params"].items() if name != EXACT},
        metrics=metrics,
        weights=plan.weights.to_dict(),
        budget={family: tuple(widths) for family, widths in plan.spec.budget.items()},
        checkpoint=str(Path("trials") / str(trial["trial_id"]) / CHECKPOINT),
        timing=Timing(sum(meter.seconds.values()), dict(meter.seconds), started.isoformat(), now.isoformat()),
        memory=dict(meter.peaks),
        fidelities={**shown, **recorder.history.fidelities, **shown},
        provenance=Provenance(versions(), git_revision()),
    )
