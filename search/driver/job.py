"""What a search is given: what to look for, what each trial does, where trials run, whom to inform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.samplers import SamplerSettings
from search.base.schedulers import SchedulerSettings
from search.nodes.probe import Ready
from search.nodes.session import Resources
from search.trials.trial_run import Work

#: Draws a trial's parameters from an `optuna.Trial` (or anything with its `suggest_*`) and returns all of them.
Space = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class SearchJob:
    """What a search looks for, and in which study.

    Attributes:
        study: The study's folder.
        space: Draws all parameters of one trial.
        objectives: What is optimised. A row without finite values for all of them counts as failed.
        trials: Size of the whole search.
        warm_starts: Starting points `{"origin": str, "params": {...}}` in order. Parameters that the space does not
            draw stay as they are; absent ones are sampled. With `"teaches": False` the sampler does not learn from it.
        finalists: How many of the trials, the last ones, repeat members of the front with further seeds or average
            their runs.
        averages: Whether some of these average the weights of the runs of one member.
        sampler: How parameters are chosen.
        scheduler: Whether and how trials are stopped early.
    """

    study: Path
    space: Space
    objectives: Sequence[Objective]
    trials: int
    warm_starts: Sequence[Mapping[str, Any]] = ()
    finalists: int = 0
    averages: bool = False
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)


@dataclass(frozen=True)
class Task:
    """What each trial does.

    Attributes:
        work: Does one trial in a worker process, see `search.trials.trial_run.Work`.
        shared: Big read-only inputs, its keyword arguments. They go into the object store once, and every worker maps
            them.
    """

    work: Work
    shared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """How and where the trials of a search run.

    Nothing here changes what a trial means.

    Attributes:
        resources: What one trial requests from Ray.
        concurrency: Trials at once. None allows as many as the resources do, those of nodes that join later too.
        retries: How often a trial starts again after its worker process died, before it counts as failed. Nodes that
            die do not count.
        ray_address: A running cluster. None takes `RAY_ADDRESS`, else a Ray of this process's own.
        ready: Called once in every worker process before its first trial. A node that has a reason to run no trial
            costs none and is excluded, unless there is no other or there are too many such nodes.
    """

    resources: Resources = field(default_factory=Resources)
    concurrency: int | None = None
    retries: int = 3
    ray_address: str | None = None
    ready: Ready | None = None


def _ignore(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a search.

    Attributes:
        on_row: Called with the row of each trial that ends.
        on_start: Called with the id of each trial that starts.
        on_phase: Called with the id of a trial and its next phase, in words.
    """

    on_row: Callable[[TrialRow], None] = _ignore
    on_start: Callable[[str], None] = _ignore
    on_phase: Callable[[str, str], None] = _ignore
