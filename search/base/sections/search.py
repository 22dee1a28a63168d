"""Section `search`: how many trials, what they optimise, and what one of them may use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medcore.budgets.limits import Metric
from medcore.budgets.prices import TIME, Prices
from medcore.models.spec import Architecture
from results.stats.labels import is_cost
from results.stats.objectives import Direction, Objective
from search.base.promotion import Quota
from search.base.samplers import SAMPLERS
from search.base.schedulers import NONE, SCHEDULERS, SchedulerSettings
from search.base.sections.fields import Fraction, NotNegative, PathField, Section, Share, as_saved_before, choice
from search.base.sections.space import SHARES, SpaceConfig
from search.base.sections.times import DESCRIPTION, Cost, absolute, check_times, counted, prices_of

#: Keys of the section before trials were halved, which all later versions have, and what later keys meant before them.
_KEYS = frozenset(
    {"trials", "sampler", "objectives", "cost", "space", "warm_starts", "cpus_per_trial", "gpus_per_trial"}
    | {"memory_per_trial", "leverage_images", "concurrency", "retries"}
)
_BEFORE_HALVING = {"reduction": 3, "finalists": 0.0}
_BEFORE_SCHEDULERS = {"scheduler": NONE}
_BEFORE_AVERAGES = {"average_runs": False}
#: Value of `keep` with which the search removes weights.
KEEP_FRONT = "front"


class WarmStarts(Section):
    """Trials that run first.

    These are the dense model, and knapsack, uniform and the rule's budgets at the given shares of the cost. If the cost
    is measured time, uniform and the rule's budgets meet the same shares of `flops_paper`. By default knapsack budgets
    start with cheap and far-apart ones, so that a search that ends early has a front.
    """

    dense: bool = True
    knapsack: tuple[Fraction, ...] = (0.1, 0.3, 0.05, 0.2, 0.08, 0.15, 0.06, 0.5)
    uniform: tuple[Fraction, ...] = (0.3, 0.1)
    rule: tuple[Fraction, ...] = Field(
        (), description="shares at which the paper's rule starts; it needs Fisher scores"
    )

    @model_validator(mode="before")
    @classmethod
    def _before_curves(cls, values: Any) -> Any:
        return as_saved_before(values, frozenset({"dense", "uniform", "rule"}), {"knapsack": ()})


class SearchConfig(Section):
    """The search."""

    trials: int = Field(48, ge=1)
    sampler: Annotated[str, choice(SAMPLERS)] = Field(
        "gaps",
        description="gaps: halves the widest gap between shares of the cost, and TPE draws the other dimensions; the "
        "others draw all dimensions",
    )
    scheduler: Annotated[str, choice(SCHEDULERS)] = Field(
        NONE, description="stops trials early; none: every trial runs to its end"
    )
    scheduler_objective: str | None = Field(
        None, description="asha: objective by which it compares trials; null: the first that is no cost"
    )
    scheduler_images: int | None = Field(
        None, ge=1, description="search images of the evaluations before the last, for a scheduler; null: all"
    )
    reduction: int = Field(3, ge=2, description="halving: about one trial in so many continues after each fidelity")
    finalists: Share = Field(
        0.3, description="share of the trials, the last ones, that repeat members of the front or average their runs"
    )
    average_runs: bool = Field(
        True, description="whether some of the finalists take the mean of the weights of the runs of one member"
    )
    even_recovery: bool = Field(
        False,
        description="recovery.steps are those at 15 % of the FLOPs; smaller models take more and larger ones fewer, so "
        "that trials take about as long (method §13). The dense model takes recovery.steps",
    )
    objectives: tuple[Objective, ...] = Field(
        (
            Objective("flops", Direction.MIN),
            Objective("boundary_f1", Direction.MAX),
            Objective("hd95", Direction.MIN),
        ),
        min_length=1,
    )
    cost: Cost = Field("flops_paper", description="the cost that `fraction` refers to")
    times: PathField | None = Field(None, description=DESCRIPTION)
    space: SpaceConfig = Field(default_factory=SpaceConfig)
    warm_starts: WarmStarts = WarmStarts()
    cpus_per_trial: int = Field(1, ge=1)
    gpus_per_trial: NotNegative | Literal["auto"] = Field(
        "auto",
        description="share of a GPU on nodes that have one, at most 1; auto: a dry run measures it for the smallest "
        "GPU of all nodes",
    )
    memory_per_trial: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto",
        description="bytes that Ray reserves for a trial; auto: a dry run measures it if memory is short; null: none",
    )
    leverage_images: int = Field(16, ge=0, description="recovery images for a trial's leverage; 0: not computed")
    concurrency: int | None = Field(
        None, ge=1, description="trials that run at the same time; null: as many as the resources allow"
    )
    keep: Literal["front", "all"] = Field(
        "all",
        description="front: remove the weights of trials that no rule can choose any more; all: keep all",
    )
    retries: int = Field(3, ge=0, description="restarts of a trial whose worker process died")

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        values = as_saved_before(values, _KEYS, _BEFORE_AVERAGES)
        saved = as_saved_before(values, _KEYS, _BEFORE_HALVING)
        return values if saved is values else as_saved_before(saved, _KEYS, _BEFORE_SCHEDULERS)

    @model_validator(mode="after")
    def _sound(self) -> SearchConfig:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives: {', '.join(names)}: list each once")
        if self.scheduler_objective not in (None, *names):
            raise ValueError(f"scheduler_objective '{self.scheduler_objective}' is none of {', '.join(names)}")
        check_times({self.cost}, self.times)
        if self.cost == TIME and SHARES in self.space.shape.values:
            raise ValueError("cost time: budgets of space.shape shares meet counted costs only; take curves alone")
        if self.cost == TIME and self.space.sides:
            raise ValueError("cost time: a table holds the times of one side; leave out space.side")
        if self.gpu_share > 1:
            raise ValueError(
                f"gpus_per_trial {self.gpu_share:g}: a trial runs on one GPU, so give at most 1 (of trainings, "
                "finetune.workers and adapt.workers take several)"
            )
        return self

    @property
    def scheduling(self) -> SchedulerSettings:
        """The scheduler's settings, with the objective by which it compares trials."""
        chosen = [item for item in self.objectives if item.name == self.scheduler_objective]
        qualities = [item for item in self.objectives if not is_cost(item.name)]
        compared = (*chosen, *qualities, *self.objectives)[0]
        return SchedulerSettings(
            self.scheduler, compared.name, compared.direction, objectives=self.objectives, quota=Quota(self.reduction)
        )

    @property
    def metric(self) -> Metric:
        """The counted cost that budgets meet which cannot meet measured time."""
        return counted(self.cost)

    def absolute(self) -> SearchConfig:
        """Return the same search with an absolute path."""
        return self.model_copy(update={"times": absolute(self.times)})

    def prices(self, arch: Architecture) -> Prices | None:
        """Return what widths cost in measured time; None if the cost is counted.

        Raises:
            MedcoreError: As `search.base.sections.times.prices_of`.
        """
        return prices_of(self.times, arch)

    @property
    def last_trials(self) -> int:
        """How many trials are finalists."""
        return int(self.trials * self.finalists)

    @property
    def gpu_share(self) -> float:
        """Return the share of a GPU for work that is not measured.

        A shard of the scoring job is such work.
        """
        return 0.25 if self.gpus_per_trial == "auto" else self.gpus_per_trial

    @property
    def memory_bytes(self) -> int:
        """Return the bytes to reserve without a measurement; 0 reserves none."""
        return self.memory_per_trial if isinstance(self.memory_per_trial, int) else 0
