"""`medcore search`: prepare once, run the trials, follow them in a tracker."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace

from medcore.data.load import ImageSet
from medcore.errors import StorageError, brief
from results.plots.curves import save_curves
from results.store.files import make_folder
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, compact
from search.base.config import Config
from search.base.device import release_memory
from search.base.lock import only_driver
from search.base.provenance import git_revision, machine
from search.base.samplers import SamplerSettings
from search.base.sections.search import KEEP_FRONT
from search.base.terminal.status import Status
from search.commands.before import slow
from search.commands.before.checks import log_notes, require, run_checks
from search.commands.before.slow import Loaded
from search.commands.open_study import describe, keep_images, open_study
from search.commands.sections import config_at, job_resources, study_jobs, trial_settings
from search.driver import preflight
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.kept import Weights
from search.driver.outcome import Outcome
from search.driver.placement import placed
from search.driver.progress.search_progress import SearchProgress, harmless
from search.driver.run import run_search
from search.nodes.session import cluster_address, connected
from search.study.inputs import Shared
from search.study.prepare import Report, prepare
from search.study.scoring import save_heatmaps
from search.tracking.tracker import Announcement, Tracker, TrackingThread
from search.tracking.trackers import configured_tracker
from search.trials.sampling.reach import share_limits
from search.trials.sampling.sides import cost_limits
from search.trials.sampling.space import domain_of, sample
from search.trials.sampling.warm import warm_starts
from search.trials.trial import trial_phases

logger = logging.getLogger(__name__)


def search(
    config: Config,
    *,
    resume: bool = False,
    ray_address: str | None = None,
    command: str = "medcore search CONFIG --resume",
    status: Status | None = None,
    say: Callable[[str], None] = lambda _: None,
    noted: Collection[str] = (),
) -> Outcome:
    """Run the study (in `config.folder`) to its number of trials.

    Args:
        config: The study's configuration.
        resume: Whether to continue a study whose folder exists; without it such a folder is an error.
        ray_address: A running cluster; None takes `RAY_ADDRESS`, else a Ray of this process's own.
        command: What the user types to resume, for the message of an interrupted search.
        status: Shows what the search does; by default one of its own, on standard error.
        say: Receives one-line messages for people. Its errors do not end the search.
        noted: Notes of checks that the user has seen already.

    Raises:
        MedcoreError: The study exists or has another configuration, or the checks before the first trial fail.
    """
    config, status, say = config.absolute(), status or Status(), harmless(say)
    with only_driver(config.folder), status:
        status.doing("reading checkpoints")
        open_study(config, resume)
        say(f"study folder: {config.folder}")
        status.doing(f"connecting to Ray at {address}" if (address := cluster_address(ray_address)) else "starting Ray")
        with connected(ray_address, job_resources(config)):
            subject = Loaded(config, ray_address, resume)
            say(_check(subject, status.report, noted))
            ready = preflight.for_late_nodes(config.model, ray_address)
            shared = _prepare(config, subject, status)
            reach = share_limits(config.search, shared.start_spec, shared.settings.prices)
            job = SearchJob(
                config.folder,
                functools.partial(sample, domain=domain_of(shared)),
                config.search.objectives,
                config.search.trials,
                warm_starts=warm_starts(shared),
                finalists=config.search.last_trials,
                averages=config.averages,
                sampler=SamplerSettings(
                    config.search.sampler, config.seed, reach=reach, sides=cost_limits(config.search, shared.start_spec)
                ),
                scheduler=config.search.scheduling,
            )
            status.doing("finding out what a trial needs of a machine")
            execution = Execution(
                placed(shared, config.folder),
                concurrency=config.search.concurrency,
                retries=config.search.retries,
                ray_address=ray_address,
                ready=ready,
            )
            outcome = _run(config, job, shared, execution, status, resume=resume, command=command, say=say)
            status.doing("stopping Ray")
    say(outcome.message)
    return outcome


def check_nodes(config: Config, ray_address: str | None = None) -> int:
    """Run the checks of nodes and tracking server before a search's first trial; return how many nodes are ready.

    This is `medcore cluster check`.
    """
    config = config.absolute()
    make_folder(config.folder)
    with connected(ray_address, job_resources(config)):
        return slow.check_nodes(config, ray_address)


def _check(subject: Loaded, report: Report | None, noted: Collection[str]) -> str:
    """Run the slow checks, log their notes, and return how the trials divide up.

    Raises:
        MedcoreError: A check has found a problem.
    """
    found = run_checks(slow.BEFORE_SEARCH, subject, report)
    require(found.values())
    log_notes(found.values(), noted)
    return found[slow.STARTS].text


def _prepare(config: Config, subject: Loaded, status: Status) -> Shared:
    """Compute what the trials share, and describe the study."""
    images, jobs = subject.images, subject.jobs
    keep_images(config, {"search": images, "calibration": jobs.scoring.calibration, "recovery": jobs.teacher.images})
    status.doing("evaluating the dense model")
    describe(config, images)
    shared = prepare(trial_settings(config), jobs, images, status.report)
    others = {side: _at_side(config_at(config, side), each, shared, status) for side, each in subject.resized.items()}
    release_memory()
    return replace(shared, others=others)


def _at_side(config: Config, images: ImageSet, own: Shared, status: Status) -> Shared:
    """Compute what the trials on a square of another side share.

    Args:
        config: The configuration for that side.
        images: The search images for that side.
        own: What the trials at the study's own side share.
        status: Shows how the jobs go on.
    """

    def report(name: str, done: int, total: int) -> None:
        status.report(f"{name} at {config.model.side} pixels", done, total)

    status.doing(f"reading images for {config.model.side} pixels")
    return replace(prepare(trial_settings(config), study_jobs(config), images, report), reference=own.arch)


def _run(
    config: Config,
    job: SearchJob,
    shared: Shared,
    execution: Execution,
    status: Status,
    *,
    resume: bool,
    command: str,
    say: Callable[[str], None],
) -> Outcome:
    """Run the trials that are missing, and send them to the tracker."""
    folder = config.folder
    status.doing("drawing scores")
    save_heatmaps(config.scoring, shared.arch, shared.table, folder / "scores.png")
    if shared.table.profile is not None:
        save_curves(shared.table.profile.dense_curves(shared.arch), shared.arch, folder / "curves.png")
    tracker = configured_tracker(config.tracking, folder, config.study)
    status.doing("starting trials")
    tracker.start(config.model_dump(mode="json"), {"git": git_revision(), "machine": machine()})
    complete, removes = False, config.search.keep == KEEP_FRONT
    announcement = Announcement(tracker, say)
    try:
        with TrackingThread(tracker, announcement=announcement), ExitStack() as stack:
            stack.callback(status.doing, f"sending the last trials to {tracker.name}")
            shown = SearchProgress(job.objectives, job.trials, all_rows(folder), status, finalists=job.finalists)
            stack.enter_context(shown)
            weights = Weights(folder, job.objectives, job.finalists, averages=job.averages) if removes else None

            def ended(row: TrialRow) -> None:
                harmless(shown.ended)(row)
                if weights is not None:
                    weights.ended(row)

            task = Task(trial_phases, {"shared": shared})
            hooks = Hooks(ended, harmless(shown.started), harmless(shown.phase))
            outcome = run_search(job, task, execution, hooks, resume=resume, resume_command=command)
            if weights is not None:
                weights.sweep(complete=outcome.complete)
        complete = outcome.complete
    finally:
        try:
            compact(folder)
        except StorageError as error:  # the rows are on disk, and the search has said what to do
            logger.warning("%s", error)
        finish_tracking(tracker, complete)
        announcement.tell()
    return outcome


def finish_tracking(tracker: Tracker, complete: bool) -> None:
    """End the study's run in the tracker.

    An error is logged, because the rows are on disk and the search has its result.

    Args:
        tracker: The study's tracker.
        complete: Whether the study has all its trials.
    """
    try:
        tracker.finish(complete)
    except Exception as error:  # noqa: BLE001 - tracking never stops a search, even if a plug-in is wrong
        logger.warning("the study's end was not sent to %s: %s: %s", tracker.name, type(error).__name__, brief(error))
