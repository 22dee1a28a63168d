"""`medcore check`: all checks of a search, every image read once, and what a search will take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

from medcore.data.load import load_image_set
from medcore.data.splits import ALL
from medcore.devices import is_out_of_memory
from medcore.errors import ConfigError, DataError, MedcoreError, brief
from medcore.quality.figures import FIGURES, Metric
from results.plots.samples import sample_picture
from results.stats.labels import base_name
from results.store.files import make_folder
from results.store.trials import finished_ids
from search.base.config import Config
from search.base.device import release_memory
from search.base.sections.space import CURVES
from search.commands.before import slow
from search.commands.before.checks import Check, Found, Report, run_checks
from search.commands.before.estimate import Amounts, Estimate, estimate, unfinished
from search.commands.before.inputs import splits_of
from search.commands.before.measure import measure
from search.commands.before.quick import QUICK
from search.commands.before.slow import Loaded, trials_at_once
from search.commands.before.survey import DataSurvey, survey
from search.commands.sections import trial_settings
from search.study.disk import Demand, DiskNeed
from search.study.needs import needs_of
from search.trials.sampling.reach import counts, reachable_starts
from search.trials.sampling.sides import all_pixels, other_sides

#: Images that the steps are measured on.
_IMAGES = 4
#: Samples of each data set in the picture.
SHOWN = 4


@dataclass
class Surveyed(Loaded):
    """What `medcore check` reads: every image once, instead of those that a search loads.

    Attributes:
        shown: Samples of each data set in the picture.
        time: Seconds that the search takes, once they are measured.
    """

    shown: int = SHOWN
    time: Estimate | None = None

    @cached_property
    def surveys(self) -> list[DataSurvey]:
        """What each data folder holds.

        Raises:
            MedcoreError: A folder cannot be listed, or its splits contradict each other.
        """
        data, found = self.config.data, list[DataSurvey]()
        total, done = sum(len(listing.samples) for listing in self.listings.values()), 0

        def count() -> None:
            nonlocal done
            done += 1
            if self.report is not None:
                self.report("images", done, total)

        for folder, listing in self.listings.items():
            members = splits_of(self.config, folder, listing).names
            size = self.model.arch.frame
            found.append(survey(folder, listing, members, data.rules, size, show=self.shown, on_image=count))
        return found

    def used(self, split: str, per_dataset: int | None) -> int:
        """Return how many images of a split are used.

        Args:
            split: Name of the split.
            per_dataset: At most so many of each data set.
        """
        sizes = [len(each.usable) if split == ALL else each.parts.get(split, 0) for each in self.surveys]
        return sum(size if per_dataset is None else min(size, per_dataset) for size in sizes)

    @cached_property
    def calibration(self) -> int:
        """How many images the scores take."""
        return self.used(self.config.data.calibration_split, self.config.data.calibration_per_dataset)

    @cached_property
    def recovery(self) -> int:
        """How many images the recovery takes."""
        return self.used(self.config.data.calibration_split, self.config.data.recovery_per_dataset)

    @cached_property
    def judged(self) -> int:
        """How many images the trials are judged on."""
        return self.used(self.config.data.search_split, self.config.data.search_per_dataset)

    @cached_property
    def finished(self) -> int:
        """How many trials have ended.

        Raises:
            MedcoreError: Their table is damaged.
        """
        return len(finished_ids(self.config.folder))

    @property
    def at_once(self) -> int:
        """How many trials run at the same time."""
        return min(trials_at_once(self.config), max(1, self.config.search.trials - self.finished))

    @cached_property
    def amounts(self) -> Amounts:
        """How much is still to be computed.

        Raises:
            ConfigError: A starting point that the user wrote is out of reach.
        """
        config = self.config
        search, recovery = config.search, config.recovery
        starts = reachable_starts(search, self.model.spec, search.prices(self.model.arch))
        first, sampled, finalists = unfinished(counts(search, len(starts.names)), self.finished)
        averages = search.last_trials // 2 if config.averages else 0  # they come last
        return Amounts(
            calibration=self.calibration,
            recovery=self.recovery,
            search=self.judged,
            looked=min(self.judged, search.scheduler_images or self.judged),
            profiled=needs_of(trial_settings(config)).profile or CURVES in search.space.shape.values,
            refit_images=recovery.refit_images,
            steps=recovery.steps,
            whole=first + max(0, finalists - averages),
            sampled=sampled,
            scheduler=search.scheduler,
            reduction=search.reduction,
            at_once=self.at_once,
            prepared=self.finished > 0,
            pixels=all_pixels(search.space, self.model.arch),
        )

    @property
    def demand(self) -> Demand:
        """What the search will write."""
        images = ceil(self.recovery * all_pixels(self.config.search.space, self.model.arch))
        return slow.demand_of(self, images, trials_at_once(self.config))

    @cached_property
    def image_bytes(self) -> int:
        """Bytes of the images that the search holds."""
        square = 4 * self.model.arch.img_size**2
        held = self.judged + self.calibration + self.recovery
        whole = sum(square * each.objects + each.truth_bytes for each in self.surveys)
        own = round(held * whole / max(1, sum(len(each.usable) for each in self.surveys)))
        return own * (1 + len(other_sides(self.config.search.space, self.model.arch)))


@dataclass(frozen=True)
class Checked:
    """What `medcore check` has found.

    Attributes:
        found: The outcome of each check, by its name.
        surveys: What each data folder holds; empty if the images could not be read.
        picture: A few samples as the model gets them; None if there are none.
        need: Disk that the search takes; None if it could not be computed or is not free.
        time: Seconds that the search takes; None if they could not be measured.
        at_once: Trials that run at the same time; 1 if the time is unknown.
        finished: Trials that have ended already, which the time leaves out; 0 if the time is unknown.
    """

    found: dict[str, Found]
    surveys: list[DataSurvey]
    picture: Path | None
    need: DiskNeed | None
    time: Estimate | None
    at_once: int = 1
    finished: int = 0


def check(
    config: Config,
    *,
    resume: bool = False,
    ray_address: str | None = None,
    picture: Path | None = None,
    images: int = SHOWN,
    report: Report | None = None,
) -> Checked:
    """Check all that a search needs, and measure what it will take. No trial starts.

    Args:
        config: The configuration.
        resume: Whether the study may have trials.
        ray_address: The cluster, as the user gave it.
        picture: File for the picture; by default `check.png` in the study's folder.
        images: Samples of each data set in the picture; 0 writes no picture.
        report: Called with the name of a job, and its finished and all pieces.

    Raises:
        ConfigError: A file for the picture is given, and no image may be in it.
    """
    if picture is not None and not images:
        raise ConfigError(f"--picture {picture}: it shows patients, which --images 0 rules out; leave one out")
    config = config.absolute()
    subject = Surveyed(config, ray_address, resume, thorough=True, report=report, shown=images)
    found = run_checks(IN_CHECK, subject, known=run_checks(QUICK, subject))
    if found["model"].problems or found["images"].error is not None:
        return Checked(found, [], None, None, None)
    drawn = None
    if (shown := [sample for each in subject.surveys for sample in each.shown]) and not found["output"].problems:
        drawn = picture or config.folder / "check.png"
        try:
            make_folder(drawn.parent)
            sample_picture(shown, drawn, "Masks and boxes as the model gets them")
        except MedcoreError as error:
            found["picture"], drawn = Found.of_error(error), None
    if subject.time is None:
        return Checked(found, subject.surveys, drawn, subject.need, None)
    return Checked(found, subject.surveys, drawn, subject.need, subject.time, subject.at_once, subject.finished)


def _images(subject: Surveyed) -> Found:
    """Read every image once."""
    surveys, data = subject.surveys, subject.config.data
    problems = [each.problem for each in surveys if each.problem]
    for key in ("calibration_split", "search_split", "report_split"):
        split = getattr(data, key)
        exists = split == ALL or any(split in each.parts for each in surveys)
        if exists and not subject.used(split, None) and not problems:
            problems.append(f"data.{key} '{split}': no image of it can be used; the reasons are below")
    problems += _without_spacing(subject)
    if not problems:
        _ = subject.resized
    notes = [f"data set '{each.name}': {warning}" for each in surveys for warning in each.warnings]
    if skipped := sum(len(each.skipped) for each in surveys):
        notes.append(f"{skipped} files or entries left out, see below")
    usable, listed = sum(len(each.usable) for each in surveys), sum(each.listed for each in surveys)
    return Found(f"{usable} of {listed} can be used", tuple(notes), tuple(problems))


def _without_spacing(subject: Surveyed) -> list[str]:
    """Return which objectives need the pixel spacing that some images lack."""
    names = [objective.name for objective in subject.config.search.objectives]
    figures = {name: FIGURES[base] for name in names if (base := base_name(name)) is not None}
    wanted = [name for name, figure in figures.items() if isinstance(figure, Metric) and figure.needs_spacing]
    lacking = [each.name for each in subject.surveys if not each.spaced]
    if not wanted or not lacking:
        return []
    return [
        f"search.objectives: {', '.join(wanted)} needs the pixel spacing of every search image; {', '.join(lacking)} "
        "lacks it, so take the metric in pixels"
    ]


def _time(subject: Surveyed) -> Found:
    """Measure one step of each kind, and scale it; a step that memory cannot hold is a problem."""
    try:
        return _measured(subject)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release_memory()
        reason = (
            f"out of memory while the steps of a search were measured ({brief(error, first=120)}); lower "
            "recovery.batch_size or set recovery.autocast to true"
        )
        return Found("", problems=(reason,))


def _measured(subject: Surveyed) -> Found:
    config = subject.config
    few, _ = load_image_set(
        config.data.folders,
        "all",
        subject.model.arch.frame,
        per_dataset=max(1, -(-max(_IMAGES, config.recovery.batch_size) // len(config.data.folders))),
        rules=config.data.rules,
    )
    if not len(few):
        raise DataError("no image to measure a step on")
    fisher = needs_of(trial_settings(config)).fisher
    measured = measure(config, subject.model, few, fisher=fisher)
    subject.time = estimate(measured.times, subject.amounts)
    return Found(
        f"a recovery step {measured.times.step:.2f} s at {measured.fraction:.0%} of the FLOPs, an image of the "
        f"evaluation {measured.times.evaluation:.3f} s"
    )


#: What `medcore check` checks after the quick checks.
IN_CHECK = (
    *slow.MODEL,
    Check("server", slow.server, after=("server",)),
    Check("images", _images, after=("model", "images")),
    *slow.STORAGE,
    Check("time", _time, after=("model", "images", slow.STARTS)),
)
