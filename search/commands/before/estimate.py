"""How long a search takes, from the times of single steps. Numbers in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

from search.base.schedulers import HALVING

#: Images of the second-order profile, and those of them that also take a backward pass (method §12).
_MOMENTS, _METRIC = 64, 32
#: Share of the last recovery before the second fidelity (method §14).
_PART = 1 / 3


@dataclass(frozen=True)
class StepTimes:
    """Measured seconds.

    Attributes:
        answer: The unpruned model on an image.
        profile: An image of the second-order profile, with its backward pass.
        fisher: An image of the Fisher information of both models; 0 if nothing needs it.
        refit: A refit without what each image adds.
        refit_image: What each image adds to a refit.
        step: One recovery step of a pruned model.
        evaluation: A pruned model on an image, with its metrics.
    """

    answer: float
    profile: float
    fisher: float
    refit: float
    refit_image: float
    step: float
    evaluation: float


@dataclass(frozen=True)
class Amounts:
    """How much a search computes.

    Attributes:
        calibration: Calibration images.
        recovery: Recovery images.
        search: Search images.
        looked: Search images of the evaluations before the last.
        profiled: Whether a second-order profile is computed.
        refit_images: Images of a refit; 0 for no refit.
        steps: Recovery steps of a trial.
        whole: Trials that run to their end in any case: starting points and repeats. Averages, about half of the
            finalists, train nothing and are not counted.
        sampled: Other trials.
        scheduler: Name of the scheduler.
        reduction: Of halving: about one trial in so many continues after each fidelity.
        at_once: Trials that run at the same time.
        prepared: Whether scores, profile and answers are kept from an earlier start of the study.
        pixels: Pixels of the squares of all sides that trials choose from, as a multiple of the study's own square.
    """

    calibration: int
    recovery: int
    search: int
    looked: int
    profiled: bool
    refit_images: int
    steps: int
    whole: int
    sampled: int
    scheduler: str
    reduction: int
    at_once: int
    prepared: bool = False
    pixels: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of a search.

    Attributes:
        before: Before the first trial.
        trial: One trial that runs to its end.
        trials: All trials.
    """

    before: float
    trial: float
    trials: float

    @property
    def total(self) -> float:
        """Return the seconds of the whole search."""
        return self.before + self.trials


def unfinished(counts: tuple[int, int, int], finished: int) -> tuple[int, int, int]:
    """Return how many trials of each kind are left. The first kind ends first, then the second.

    Args:
        counts: Starting points, sampled trials and finalists of a whole search.
        finished: Trials that have ended.
    """
    first, sampled, finalists = counts
    later = max(0, finished - first)
    last = max(0, later - sampled)
    return max(0, first - finished), max(0, sampled - later), max(0, finalists - last)


def estimate(times: StepTimes, amounts: Amounts) -> Estimate:
    """Estimate how long a search takes, or what is left of it.

    With halving, a sampled trial stops at the first fidelity, after its refit, unless it is one in `reduction`, and at
    the second, after a third of its recovery, unless it is one in `reduction` of those.
    """
    refit_images = min(amounts.refit_images, amounts.calibration)
    moments = min(_MOMENTS, amounts.calibration) if amounts.profiled else 0
    metric = min(_METRIC, moments)
    shared = (
        times.fisher * amounts.calibration
        + times.profile * metric
        + times.answer * (moments - metric + amounts.recovery)
    )
    if amounts.prepared:
        shared = 0.0
    # the shards of scores, profile and answers run at the same time; the rest runs in one process
    before = (shared / amounts.at_once + times.answer * (amounts.search + refit_images)) * amounts.pixels
    refit = times.refit + times.refit_image * refit_images if refit_images else 0.0
    recovery, end = times.step * amounts.steps, times.evaluation * amounts.search
    if amounts.scheduler != HALVING:
        whole = refit + recovery + end
        work = whole * (amounts.whole + amounts.sampled)
    else:
        look = times.evaluation * amounts.looked
        first, second, last = refit + look, _PART * recovery + look, (1 - _PART) * recovery + end
        whole = first + second + last
        sampled = first + second / amounts.reduction + last / amounts.reduction**2
        work = whole * amounts.whole + sampled * amounts.sampled
    return Estimate(before, whole, work / amounts.at_once)
