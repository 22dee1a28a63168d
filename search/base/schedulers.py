"""Schedulers by name: whether a search stops trials early.

A plug-in adds one with the decorator `SCHEDULERS.register(name)`. Ray is imported only when a scheduler is made,
because the configuration needs no more than the names. `asha` keeps what it has seen in memory: after a resume it
compares trials only with those that run from then on. `halving` keeps it in the study's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcore.registry import Registry
from results.stats.objectives import Direction, Objective
from search.base.phase_keys import FIGURES, PROGRESS
from search.base.promotion import Quota

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

#: The scheduler that lets every trial run to its end.
NONE = "none"
#: The scheduler that lets the trials of a front continue.
HALVING = "halving"


@dataclass(frozen=True)
class SchedulerSettings:
    """What a scheduler is made from.

    Attributes:
        name: A name in `SCHEDULERS`.
        objective: The objective by which trials are compared.
        mode: Whether the objective should go down (`min`) or up (`max`).
        objectives: The figures by which `halving` compares trials.
        quota: How many trials continue after each fidelity of `halving`.
        study: The study's folder, where `halving` keeps its decisions.
    """

    name: str = NONE
    objective: str = ""
    mode: Direction = Direction.MAX
    objectives: tuple[Objective, ...] = ()
    quota: Quota = field(default_factory=Quota)
    study: Path = Path()

    @property
    def metric(self) -> str:
        """Key of the objective in a flat result of Tune."""
        return f"{FIGURES}/{self.objective}"

    @property
    def time(self) -> str:
        """Key of the progress in a flat result of Tune."""
        return f"{FIGURES}/{PROGRESS}"


#: Makes a Tune scheduler from the settings; None lets Tune run all trials to their end, in their order.
SchedulerFactory = Callable[[SchedulerSettings], "TrialScheduler | None"]

SCHEDULERS: Registry[SchedulerFactory] = Registry("scheduler")


@SCHEDULERS.register(NONE)
def _none(settings: SchedulerSettings) -> None:
    """Return no scheduler."""


@SCHEDULERS.register("asha")
def _asha(settings: SchedulerSettings) -> TrialScheduler:
    """Return asynchronous successive halving.

    Only the best third of the trials that reach a rung continues.

    Trials are compared after 10, 30 and 90 percent of their recovery steps, or at their first evaluation after that.
    """
    from ray.tune.schedulers import ASHAScheduler

    options: dict[str, Any] = {"max_t": 100, "grace_period": 10, "reduction_factor": 3, "stop_last_trials": False}
    return ASHAScheduler(time_attr=settings.time, metric=settings.metric, mode=settings.mode, **options)


@SCHEDULERS.register(HALVING)
def _halving(settings: SchedulerSettings) -> TrialScheduler:
    """Return successive halving for several objectives, which the study's folder remembers."""
    from search.base.halving import ParetoHalving

    return ParetoHalving(settings.study, settings.objectives, settings.quota)
