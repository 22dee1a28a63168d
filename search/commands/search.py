"""`medcore search`: prepare once, run the trials, follow them in MLflow."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError, StorageError
from medcore.scoring.fisher import Progress
from results.store.files import make_folder, write_by_rename
from results.store.trials import all_rows, compact, write_study
from search.base.config import Config, FinetuneConfig, load_config
from search.base.device import release_memory
from search.base.lock import only_driver
from search.base.logins import hide_login
from search.base.objectives import Objective, reference_point
from search.base.provenance import git_revision, machine
from search.driver import preflight
from search.driver.placement import placed
from search.driver.progress import SearchProgress
from search.driver.run import Outcome, run_search
from search.nodes.session import Resources, cluster_address, connected
from search.study.inputs import adapted_model, dense_metrics, load_split
from search.study.prepare import prepare
from search.study.scoring import save_heatmaps
from search.tracking.tracker import Tracker, TrackingThread
from search.trials.ledger import all_issued
from search.trials.space import domain_of, sample
from search.trials.trial import run_trial
from search.trials.warm import check_warm_starts, warm_starts

logger = logging.getLogger(__name__)

#: Settings that may differ when a study is resumed: they change how trials run, not what they mean.
_MAY_CHANGE = {
    "recovery.save_every",
    "search.trials",
    "search.concurrency",
    "search.cpus_per_trial",
    "search.gpus_per_trial",
    "search.memory_per_trial",
    "search.retries",
    "tracking.uri",
}
_MAY_CHANGE |= {"adapt.workers"} | {f"finetune.{name}" for name in FinetuneConfig.model_fields}  # no trial knows of it


def search(
    config: Config,
    *,
    resume: bool = False,
    ray_address: str | None = None,
    command: str = "medcore search CONFIG --resume",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the study (in `config.folder`) to its number of trials.

    Args:
        resume: go on with a study whose folder exists; without it such a folder is an error.
        command: what the user types to resume; shown when the search is interrupted.
        progress: scoring progress. say: receives one-line messages for people.
    """
    config = config.absolute()
    folder = config.folder
    resources = Resources(config.search.cpus_per_trial, config.search.gpu_share)
    with only_driver(folder):
        open_study(config, resume)
        say(f"study folder: {folder}")
        with connected(ray_address, resources):
            _preflight(config, ray_address)
            return _search(config, ray_address, resume, command, progress, say)


def check(config: Config, ray_address: str | None = None) -> int:
    """`medcore cluster check`: the checks before a search's first trial; returns how many nodes are ready."""
    config = config.absolute()
    make_folder(config.folder)
    with connected(ray_address, Resources(config.search.cpus_per_trial, config.search.gpu_share)):
        return _preflight(config, ray_address)


def _preflight(config: Config, ray_address: str | None) -> int:
    # a share that is still to be measured can be a whole GPU
    share = 1.0 if config.search.gpus_per_trial == "auto" else config.search.gpu_share
    resources = Resources(config.search.cpus_per_trial, share)
    return preflight.check(config, adapted_model(config).arch, resources, cluster_address(ray_address))


def _search(
    config: Config,
    ray_address: str | None,
    resume: bool,
    command: str,
    progress: Progress | None,
    say: Callable[[str], None],
) -> Outcome:
    folder, arch = config.folder, adapted_model(config).arch
    ready = preflight.for_late_nodes(config, ray_address)
    check_warm_starts(config, arch)
    images = load_split(config, config.data.search_split, arch.img_size, config.data.search_per_dataset)
    objectives = [Objective(item.name, item.direction) for item in config.search.objectives]
    describe(config, images, objectives)
    shared = prepare(config, images, progress)
    release_memory()
    resources = placed(config, shared)
    save_heatmaps(config, shared.table, folder / "scores.png")
    tracker = Tracker(folder, config.tracking.uri, config.tracking.experiment, config.study)
    tracker.start(config.model_dump(mode="json"), {"git": git_revision(), "machine": machine()})
    complete = False
    try:
        with TrackingThread(tracker), SearchProgress(objectives, config.search.trials, all_rows(folder)) as seen:
            outcome = run_search(
                folder,
                functools.partial(sample, domain=domain_of(shared)),
                warm_starts(shared),
                objectives,
                config.search.trials,
                run_trial,
                shared={"shared": shared},
                ready=ready,
                resources=resources,
                concurrency=config.search.concurrency,
                sampler=config.search.sampler,
                seed=config.seed,
                retries=config.search.retries,
                ray_address=ray_address,
                resume=resume,
                resume_command=command,
                on_row=seen.ended,
                on_start=seen.started,
            )
        complete = outcome.complete
    finally:
        try:
            compact(folder)
        except StorageError as error:  # the rows are on disk, and the search has said what to do
            logger.warning("%s", error)
        tracker.finish(complete)
    say(outcome.message)
    return outcome


def open_study(config: Config, resume: bool) -> None:
    """Create the study's folder with its resolved configuration, or check that it is the one being resumed."""
    path = config.folder / "config.yaml"
    if path.is_file() and all_issued(config.folder):
        if not resume:
            raise MedcoreError(
                f"{config.folder}: this study exists; add --resume to go on with it, or choose another --name"
            )
        saved = load_config(path)
        if changed := sorted(_differences(saved.model_dump(), config.model_dump()) - _MAY_CHANGE):
            raise MedcoreError(
                f"{path}: cannot resume, the configuration has changed in {', '.join(changed)}; "
                "undo that or start a new study with --name"
            )
    make_folder(config.folder / "trials")
    write_by_rename(path, hide_login(config.to_yaml()).encode())


def describe(config: Config, images: ImageSet, objectives: list[Objective]) -> None:
    """Write `study.json`, which fixes the hypervolume's reference point before the first trial.

    Args:
        images: the search images. Distances are measured at their original size, so a missed object costs at most the
            largest side among them.
    """
    folder = config.folder
    if (folder / "study.json").is_file() and all_issued(folder):
        return
    arch = adapted_model(config).arch
    dense = dense_metrics(config, images)
    if unknown := [objective.name for objective in objectives if objective.name not in dense]:
        known = ", ".join(sorted(name for name in dense if "/" not in name))
        raise MedcoreError(f"unknown objective {', '.join(unknown)}; known are {known}")
    side = max(max(truth.shape) for truth in images.truths)
    write_study(
        folder,
        {
            "name": config.study,
            "objectives": [objective.record() for objective in objectives],
            "reference": reference_point(objectives, dense, side),
            "dense": dense,
            "widths": {"heads": arch.num_heads, "channels": arch.mlp_dim},
            "datasets": list(dict.fromkeys(images.datasets)),
            "git": git_revision(),
            "machine": machine(),
        },
    )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys whose values differ."""
    found: set[str] = set()
    for key in old.keys() | new.keys():
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.add(f"{prefix}{key}")
    return found
