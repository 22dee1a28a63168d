"""`medcore check`: all checks of a search, every image read once, and what a search will take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medcore.data.load import load_image_set
from medcore.data.splits import ALL
from medcore.errors import DataError
from medcore.quality.figures import FIGURES, Metric
from results.plots.samples import sample_picture
from results.stats.labels import base_name
from results.store.files import make_folder
from search.base.config import Config
from search.base.sections.space import CURVES
from search.commands.before import dear
from search.commands.before.cheap import CHEAP
from search.commands.before.checks import Check, Found, Report, run_checks
from search.commands.before.dear import Loaded, trials_at_once
from search.commands.before.estimate import Amounts, Estimate, estimate
from search.commands.before.inputs import splits_of
from search.commands.before.measure import measure
from search.commands.before.survey import DataSurvey, survey
from search.commands.sections import trial_settings
from search.study.disk import Demand, DiskNeed, disk_need
from search.study.needs import needs_of
from search.trials.sampling.reach import counts, reachable_starts

#: Images that the steps are measured on.
_MEASURED = 4
#: Samples of each data set in the picture.
_SHOWN = 4


@dataclass
class Surveyed(Loaded):
    """What `medcore check` reads: every image once, instead of those that a search loads.

    Attributes:
        time: Seconds that the search takes, once they are measured.
    """

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
            found.append(survey(folder, listing, members, data.rules, size, show=_SHOWN, on_image=count))
        return found

    def used(self, split: str, per_dataset: int | None) -> int:
        """Return how many images of a split are used.

        Args:
            split: Name of the split.
            per_dataset: At most so many of each data set.
        """
        sizes = [len(each.usable) if split == ALL else each.parts.get(split, 0) for each in self.surveys]
        return sum(size if per_dataset is None else min(size, per_dataset) for size in sizes)

    @property
    def amounts(self) -> Amounts:
        """How much a search computes."""
        config = self.config
        data, search, recovery = config.data, config.search, config.recovery
        starts = reachable_starts(search, self.model.spec, search.prices(self.model.arch))
        first, sampled, repeats = counts(search, len(starts.names))
        judged = self.used(data.search_split, data.search_per_dataset)
        return Amounts(
            calibration=self.used(data.calibration_split, data.calibration_per_dataset),
            recovery=self.used(data.calibration_split, data.recovery_per_dataset),
            search=judged,
            looked=min(judged, search.scheduler_images or judged),
            profiled=needs_of(trial_settings(config)).profile or CURVES in search.space.shape.values,
            refit_images=recovery.refit_images,
            steps=recovery.steps,
            whole=first + repeats,
            sampled=sampled,
            scheduler=search.scheduler,
            reduction=search.reduction,
            at_once=min(trials_at_once(config), search.trials),
        )

    @property
    def demand(self) -> Demand:
        """What the search will write."""
        return dear.demand_of(self, self.amounts.recovery, trials_at_once(self.config))

    @property
    def image_bytes(self) -> int:
        """Bytes of the images that the search holds."""
        amounts, square = self.amounts, 4 * self.model.arch.img_size**2
        held = amounts.search + amounts.calibration + amounts.recovery
        whole = sum(square * each.objects + each.truth_bytes for each in self.surveys)
        return round(held * whole / max(1, sum(len(each.usable) for each in self.surveys)))


@dataclass(frozen=True)
class Checked:
    """What `medcore check` has found.

    Attributes:
        found: The outcome of each check, by its name.
        surveys: What each data folder holds; empty if the images could not be read.
        picture: A few samples as the model gets them; None if there are none.
        need: Disk that the search takes; None if it could not be computed.
        time: Seconds that the search takes; None if they could not be measured.
        at_once: Trials that run at the same time.
    """

    found: dict[str, Found]
    surveys: list[DataSurvey]
    picture: Path | None
    need: DiskNeed | None
    time: Estimate | None
    at_once: int


def check(
    config: Config,
    *,
    resume: bool = False,
    ray_address: str | None = None,
    picture: Path | None = None,
    report: Report | None = None,
) -> Checked:
    """Check all that a search needs, and measure what it will take. No trial starts.

    Args:
        config: The configuration.
        resume: Whether the study may have trials.
        ray_address: The cluster, as the user gave it.
        picture: File for the picture; by default `check.png` in the study's folder.
        report: Called with the name of a job, and its finished and all pieces.
    """
    config = config.absolute()
    subject = Surveyed(config, ray_address, resume, thorough=True, report=report)
    found = run_checks(IN_CHECK, subject, known=run_checks(CHEAP, subject))
    if found["model"].problems or found["images"].error is not None:
        return Checked(found, [], None, None, None, 1)
    drawn = None
    if (shown := [sample for each in subject.surveys for sample in each.shown]) and not found["output"].problems:
        drawn = picture or config.folder / "check.png"
        make_folder(drawn.parent)
        sample_picture(shown, drawn, "Masks and boxes as the model gets them")
    need = disk_need(subject.demand)
    return Checked(found, subject.surveys, drawn, need, subject.time, subject.amounts.at_once)


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
    """Measure one step of each kind, and scale it."""
    config = subject.config
    few, _ = load_image_set(
        config.data.folders,
        "all",
        subject.model.arch.frame,
        per_dataset=max(1, -(-max(_MEASURED, config.recovery.batch_size) // len(config.data.folders))),
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


#: What `medcore check` checks after the cheap checks.
IN_CHECK = (
    *dear.MODEL,
    Check("server", dear.server, after=("server",)),
    Check("images", _images, after=("model", "images")),
    *dear.STORAGE,
    Check("time", _time, after=("model", "images")),
)
