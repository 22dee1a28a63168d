"""What all arms share: images, statistics and the teacher's answers, each measured in processor seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.search_arms.charges import Charges
from medcore.data.frames.frame import Frame
from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.training.refit.dense_streams import DenseStreams, record_streams
from search.base.config import Config
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, TrialSettings, adapted_model, load_split, refit_settings, search_images
from search.study.needs import Needs, needs_of
from search.study.prepare import Jobs, prepare, statistics

_NOTHING = Needs(fisher=False, profile=False)


@dataclass(frozen=True)
class Prepared:
    """Inputs of all arms.

    Attributes:
        common: Shared inputs without statistics and streams.
        jobs: The jobs, whose results are in the cache.
        streams: For the arms that refit.
        report_images: Held-out images.
        charges: Processor seconds of each part.
    """

    common: Shared
    jobs: Jobs
    streams: DenseStreams
    report_images: ImageSet
    charges: Charges

    @classmethod
    def of(cls, config: Config, arms: Iterable[Config], charges: Charges) -> Prepared:
        """Compute what the arms need, and nothing twice.

        Args:
            config: The configuration that all arms share.
            arms: The configurations of the arms.
            charges: Where to charge processor seconds. Loading images is not charged.
        """
        if config.search.space.sides:
            raise ConfigError("search.space.side: the arms share what is prepared for one side; leave it out")
        settings, jobs = trial_settings(config), study_jobs(config)
        frame = adapted_model(config.model).arch.frame
        images, held_out = search_images(config.datasets, frame), _report_images(config, frame)
        no_refit = settings.recovery.model_copy(update={"refit_images": 0})
        with charges.charged("teacher and search logits") as report:
            common = prepare(dataclasses.replace(settings, recovery=no_refit), jobs, images, report, needs=_NOTHING)
        needs = [needs_of(trial_settings(arm)) for arm in arms]
        if any(each.fisher for each in needs):
            with charges.charged("fisher") as report:
                statistics(jobs, Needs(fisher=True, profile=False), report)
        if any(each.profile for each in needs):
            with charges.charged("profile") as report:
                statistics(jobs, Needs(fisher=False, profile=True), report)
        with charges.charged("streams"):
            refit = refit_settings(config.recovery)
            assert refit is not None, "the arms share a configuration with refits"
            streams = record_streams(adapted_model(config.model), jobs.scoring.calibration, refit)
        return cls(common, jobs, streams, held_out, charges)

    def shared_for(self, config: Config) -> Shared:
        """Return the inputs of one arm: the statistics that it reads, and streams if it refits."""
        settings = trial_settings(config)
        table = statistics(self.jobs, needs_of(settings))
        streams = self.streams if settings.recovery.refit_images else None
        return dataclasses.replace(self.common, settings=settings, table=table, streams=streams)

    def seconds_for(self, config: Config) -> float:
        """Return the processor seconds of the statistics that one arm uses."""
        return sum(map(self.charges.seconds, parts_of(trial_settings(config))))


def parts_of(settings: TrialSettings) -> list[str]:
    """Return the parts that trials with these settings use."""
    needs = needs_of(settings)
    used = {
        "teacher and search logits": True,
        "fisher": needs.fisher,
        "profile": needs.profile,
        "streams": bool(settings.recovery.refit_images),
    }
    return [part for part, is_used in used.items() if is_used]


def _report_images(config: Config, frame: Frame) -> ImageSet:
    return load_split(config.datasets, config.data.report_split, frame)
