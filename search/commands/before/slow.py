"""The slow checks: they load models, read images, ask servers and nodes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.sam import MedSam
from medcore.models.sides.arch import arch_at_side
from results.store.trials import finished_ids
from search.base.config import Config
from search.base.device import best_device
from search.commands.before.checks import Check, Found, Subject
from search.commands.before.inputs import starts_found
from search.commands.before.quick import SERVER_ADVICE, gpu_found
from search.commands.sections import job_resources, study_jobs, trial_settings
from search.driver import preflight
from search.driver.placement import rough_need
from search.nodes.session import at_once, cluster_address, cores
from search.study.disk import Demand, DiskNeed, require_space, size_text
from search.study.inputs import (
    adapted_model,
    matching_base,
    require_same_samples,
    same_architecture,
    search_images,
)
from search.study.needs import needs_of
from search.study.prepare import Jobs
from search.study.teacher import teacher_path
from search.tracking.trackers import configured_tracker
from search.trials.ledger import all_issued
from search.trials.sampling.sides import all_pixels, other_sides
from search.trials.sampling.space import check_fractions

#: Name of the check that says how the trials divide up.
STARTS = "starting points"


@dataclass
class Loaded(Subject):
    """What a search loads before its first trial; it is loaded when a check first asks for it.

    Attributes:
        need: Disk that the search takes, once the check of the disk has passed.
    """

    need: DiskNeed | None = None

    @cached_property
    def model(self) -> MedSam:
        """The model to prune.

        Raises:
            CheckpointError: It cannot be loaded.
        """
        return adapted_model(self.config.model)

    @cached_property
    def images(self) -> ImageSet:
        """The search images.

        Raises:
            DataError: None can be used.
        """
        return search_images(self.config.datasets, self.model.arch.frame)

    @cached_property
    def resized(self) -> dict[int, ImageSet]:
        """The same search images for the other sides that trials choose from, by side.

        Raises:
            ConfigError: An object is seen at one side and not at another.
        """
        config, found = self.config, dict[int, ImageSet]()
        for side in other_sides(config.search.space, self.model.arch):
            found[side] = search_images(config.datasets, arch_at_side(self.model.arch, side).frame)
            require_same_samples(self.images, found[side])
        return found

    @cached_property
    def jobs(self) -> Jobs:
        """The jobs before the first trial, with their images.

        Raises:
            DataError: No image can be used.
        """
        return study_jobs(self.config)

    @property
    def demand(self) -> Demand:
        """What the search will write, as far as it is not there."""
        teacher, search = self.jobs.teacher, self.config.search
        running = search.concurrency or at_once(job_resources(self.config))
        own = 0 if teacher_path(teacher).is_file() else len(teacher.images)
        # the answers at other sides come after those at the study's own, and before the first trial
        others = 0 if all_issued(self.config.folder) else all_pixels(search.space, self.model.arch) - 1
        return demand_of(self, own + ceil(others * len(teacher.images)), running)

    @cached_property
    def image_bytes(self) -> int:
        """Bytes of the images that the search holds."""
        recovery, calibration = self.jobs.teacher.images, self.jobs.scoring.calibration
        sets = (self.images, calibration, *(() if recovery is calibration else (recovery,)))
        held: int = sum(each.images.nbytes + each.masks.nbytes + sum(map(_bytes, each.truths)) for each in sets)
        return held * (1 + len(other_sides(self.config.search.space, self.model.arch)))


def model(subject: Loaded) -> Found:
    """Load the model to prune."""
    found = subject.model
    sides = other_sides(subject.config.search.space, found.arch)
    for side in sides:
        adapted_model(subject.config.model.at_side(side))
    figures = cost(found.spec)
    device = "on the GPU" if best_device().type == "cuda" else "on the CPU"
    pruned = "" if found.spec.is_dense else ", pruned already"
    text = f"{figures.encoder_params / 1e6:.1f} M parameters in the encoder, {figures.flops / 1e9:.1f} GFLOPs"
    squares = f", also at {' and '.join(map(str, sides))} pixels" if sides else ""
    return Found(f"{found.arch.name}{pruned}: {text}{squares}, {device}")


def gpu(subject: Loaded) -> Found:
    """Find out whether the settings ask for a GPU that torch cannot use."""
    return gpu_found(subject, best_device().type == "cuda", "torch sees no GPU on this machine")


def general_model(subject: Loaded) -> Found:
    """Compare the general model with the one to prune, if anything reads it."""
    pair = subject.config.model
    if needs_of(trial_settings(subject.config)).fisher:
        matching_base(pair)
        return Found(f"{pair.base.name} fits")
    if not subject.thorough:
        return Found(f"{pair.base.name}: no trial of this search reads it")
    same_architecture(pair)
    return Found(f"{pair.base.name} fits; no trial of this search reads it")


def starting_points(subject: Loaded) -> Found:
    """Compare starting points and sampled shares with the model."""
    check_fractions(trial_settings(subject.config), subject.model.spec)
    return starts_found(subject.config, subject.model.spec)


def images(subject: Loaded) -> Found:
    """Read the images of the search."""
    scored, recovery = subject.jobs.scoring.calibration, subject.jobs.teacher.images
    _ = subject.resized
    return Found(f"{len(subject.images)} to search on, {len(scored)} for scores, {len(recovery)} for recovery")


def disk(subject: Loaded) -> Found:
    """Compare the disk with what the search will write; it logs if that may not fit.

    Raises:
        StorageError: It cannot fit.
    """
    folder = subject.config.folder
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    need = subject.need = require_space(there, subject.demand)
    return Found(f"at most {size_text(need.most)}, at least {size_text(need.least)}")


def memory(subject: Loaded) -> Found:
    """Compare free memory with the images and one trial."""
    config = subject.config
    trial = rough_need(subject.model.arch, config.recovery.batch_size, config.recovery.train_decoder)
    needed, free = subject.image_bytes + trial, free_memory()
    text = f"images {size_text(subject.image_bytes)}, a trial up to {size_text(trial)}"
    if free is None:
        return Found(text)
    note = (
        f"memory: images and one trial may need {size_text(needed)}, and {size_text(free)} are free; lower "
        "recovery.batch_size, or data.calibration_per_dataset and data.recovery_per_dataset"
    )
    on_cpu = best_device().type == "cpu"
    return Found(f"{text}; {size_text(free)} are free", (note,) if on_cpu and needed > free else ())


def server(subject: Loaded) -> Found:
    """Ask the tracking server whether a new study can be written there."""
    config = subject.config
    problems = tracking_problems(config)
    where = "a file of the study's own" if config.tracking.uri is None else "can be written"
    return Found(where, problems=tuple(problems))


def nodes(subject: Loaded) -> Found:
    """Compare the nodes of a cluster with this machine, and ask the tracking server; it needs a running Ray."""
    count = check_nodes(subject.config, subject.ray_address)
    return Found(f"{count} nodes are alike" if count else "this machine")


def check_nodes(config: Config, ray_address: str | None) -> int:
    """Check tracking server and nodes; return how many nodes are ready.

    Raises:
        ManyProblems: Some are not.
    """
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
    return [] if reason is None else [f"{tracker.name} at {tracker.address} {reason}; {SERVER_ADVICE}"]


def demand_of(subject: Loaded, teacher_images: int, running: int) -> Demand:
    """Return what a search will write, as far as it is not there.

    Args:
        subject: The search.
        teacher_images: Images whose answers by the unpruned model are still to be computed.
        running: Trials that run at the same time.
    """
    config, search = subject.config, subject.config.search
    return Demand(
        search,
        subject.model.spec,
        missing=max(0, search.trials - len(finished_ids(config.folder))),
        at_once=running,
        teacher_images=teacher_images,
        averages=config.averages,
    )


def trials_at_once(config: Config) -> int:
    """Return how many trials this machine runs at the same time, without a Ray."""
    search = config.search
    by_cores = max(1, cores() // search.cpus_per_trial)
    if best_device().type == "cuda" and search.gpu_share:
        by_cores = min(by_cores, max(1, int(1 / search.gpu_share)))
    return min(search.concurrency or by_cores, by_cores)


def free_memory() -> int | None:
    """Return the bytes of main memory that this process may still take; None if the system does not say."""
    status = Path("/proc/meminfo")
    if not status.is_file():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if free is not None and limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdecimal():
        return min(free, int(most) - int(used.read_text()))
    return free


def _bytes(array: object) -> int:
    return int(getattr(array, "nbytes", 0))


MODEL = (
    Check("GPU", gpu, after=("GPU",)),
    Check("model", model),
    Check("general model", general_model, after=("model",)),
    Check(STARTS, starting_points, after=("model", STARTS)),
)
STORAGE = (
    Check("disk", disk, after=("model", "images")),
    Check("memory", memory, after=("model", "images")),
)
#: What `medcore search` checks after the quick checks.
BEFORE_SEARCH = (
    *MODEL,
    Check("nodes", nodes, after=("model",)),
    Check("images", images, after=("model",)),
    *STORAGE,
)
