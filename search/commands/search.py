"""`medcore search`: prepare once, run the trials, follow them in a tracker."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from medcore.errors import MedcoreError, StorageError, brief
from results.plots.curves import save_curves
from results.store.files import make_folder
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, compact, finished_ids
from search.base.config import Config
from search.base.device import release_memory
from search.base.lock import only_driver
from search.base.provenance import git_revision, machine
from search.base.samplers import SamplerSettings
from search.base.sections.search import KEEP_FRONT
from search.commands.open_study import describe, keep_images, open_study
from search.commands.sections import job_resources, study_jobs, trial_settings
from search.driver import preflight
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.kept import Weights
from search.driver.outcome import Outcome
from search.driver.placement import placed
from search.driver.progress import SearchProgress
from search.driver.run import run_search
from search.nodes.session import at_once, cluster_address, connected
from search.study.disk import Demand, require_space
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import Jobs, Report, prepare
from search.study.scoring import save_heatmaps
from search.study.teacher import teacher_path
from search.tracking.tracker import Tracker, TrackingThread
from search.tracking.trackers import configured_tracker
from search.trials.ledger import all_issued
from search.trials.sampling.space import check_fractions, domain_of, sample
from search.trials.sampling.warm import check_warm_starts, warm_starts
from search.trials.trial import trial_phases

logger = logging.getLogger(__name__)


def search(
    config: Config,
    *,
    resume: bool = False,
    ray_address: str | None = None,
    command: str = "medcore search CONFIG --resume",
    report: Report | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the study (in `config.folder`) to its number of trials.

    Args:
        config: The study's configuration.
        resume: Whether to continue a study whose folder exists; without it such a folder is an error.
        ray_address: A running cluster; None takes `RAY_ADDRESS`, else a Ray of this process's own.
        command: What the user types to resume, for the message of an interrupted search.
        report: Called with the name of each job before the first trial, and its numbers of finished and of all images.
        say: Receives one-line messages for people.

    Raises:
        MedcoreError: The study exists or has another configuration, or the checks before the first trial fail.
    """
    config = config.absolute()
    with only_driver(config.folder):
        open_study(config, resume)
        say(f"study folder: {config.folder}")
        with connected(ray_address, job_resources(config)):
            _preflight(config, ray_address)
            ready = preflight.for_late_nodes(config.model, ray_address)
            shared = _prepare(config, report)
            job = SearchJob(
                config.folder,
                functools.partial(sample, domain=domain_of(shared)),
                config.search.objectives,
                config.search.trials,
                warm_starts=warm_starts(shared),
                finalists=config.search.repeats,
                sampler=SamplerSettings(config.search.sampler, config.seed),
                scheduler=config.search.scheduling,
            )
            execution = Execution(
                placed(shared, config.folder),
                concurrency=config.search.concurrency,
                retries=config.search.retries,
                ray_address=ray_address,
                ready=ready,
            )
            outcome = _run(config, job, shared, execution, resume=resume, command=command)
    say(outcome.message)
    return outcome


def check(config: Config, ray_address: str | None = None) -> int:
    """Run the checks before a search's first trial; return how many nodes are ready.

    This is `medcore cluster check`.
    """
    config = config.absolute()
    make_folder(config.folder)
    with connected(ray_address, job_resources(config)):
        return _preflight(config, ray_address)


def _preflight(config: Config, ray_address: str | None) -> int:
    # a share that is still to be measured can be a whole GPU
    gpu = 1.0 if config.search.gpus_per_trial == "auto" else config.search.gpu_share
    arch, files = adapted_model(config.model).arch, preflight.checkpoint_files(config.model)
    needs = preflight.Needs(config.folder, tuple(config.data.folders), files, arch, gpu)
    return preflight.check(needs, cluster_address(ray_address), functools.partial(tracking_problems, config))


def tracking_problems(config: Config) -> list[str]:
    """Check the configured tracker and the address that it names.

    A new study must be able to write there.

    A study that has trials continues without its server, because rows are on disk first and are sent later.

    Returns:
        At most one line, without a login.
    """
    try:
        tracker = configured_tracker(config.tracking, config.folder, config.study)
    except MedcoreError as error:
        return [str(error)]
    if config.tracking.uri is None or all_issued(config.folder):
        return []
    reason = tracker.check()
    if reason is None:
        return []
    return [
        f"{tracker.name} at {tracker.address} {reason}; start it or fix its address and login, or leave the tracking "
        "address out: the study then keeps a file of its own, and `medcore sync` sends it later"
    ]


def _prepare(config: Config, report: Report | None) -> Shared:
    """Compute what the trials share, and describe the study."""
    settings, arch = trial_settings(config), adapted_model(config.model).arch
    start = adapted_model(config.model).spec
    check_warm_starts(settings.search, start, settings.prices)
    check_fractions(settings, start)
    images, jobs = search_images(config.datasets, arch.img_size), study_jobs(config)
    require_space(config.folder, _demand(config, jobs))
    keep_images(config, {"search": images, "calibration": jobs.scoring.calibration, "recovery": jobs.teacher.images})
    describe(config, images)
    shared = prepare(settings, jobs, images, report)
    release_memory()
    return shared


def _demand(config: Config, jobs: Jobs) -> Demand:
    """Return what the search will write, as far as it is not there."""
    search = config.search
    return Demand(
        search,
        adapted_model(config.model).spec,
        missing=max(0, search.trials - len(finished_ids(config.folder))),
        at_once=search.concurrency or at_once(job_resources(config)),
        teacher_images=0 if teacher_path(jobs.teacher).is_file() else len(jobs.teacher.images),
    )


def _run(
    config: Config, job: SearchJob, shared: Shared, execution: Execution, *, resume: bool, command: str
) -> Outcome:
    """Run the trials that are missing, and send them to the tracker."""
    folder = config.folder
    save_heatmaps(config.scoring, shared.arch, shared.table, folder / "scores.png")
    if shared.table.profile is not None:
        save_curves(shared.table.profile.dense_curves(shared.arch), shared.arch, folder / "curves.png")
    tracker = configured_tracker(config.tracking, folder, config.study)
    tracker.start(config.model_dump(mode="json"), {"git": git_revision(), "machine": machine()})
    complete, removes = False, config.search.keep == KEEP_FRONT
    try:
        with TrackingThread(tracker), SearchProgress(job.objectives, job.trials, all_rows(folder)) as shown:
            weights = Weights(folder, job.objectives, job.finalists) if removes else None

            def ended(row: TrialRow) -> None:
                shown.ended(row)
                if weights is not None:
                    weights.ended(row)

            task, hooks = Task(trial_phases, {"shared": shared}), Hooks(ended, shown.started)
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
