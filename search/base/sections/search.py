"""Section `search`: how many trials, what they optimise, and what one of them may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medcore.budgets.limits import Metric
from results.stats.labels import is_cost
from results.stats.objectives import Direction, Objective
from search.base.samplers import SAMPLERS
from search.base.schedulers import NONE, SCHEDULERS, SchedulerSettings
from search.base.sections.fields import Fraction, NotNegative, Section, choice
from search.base.sections.space import SpaceConfig


class WarmStarts(Section):
    """Trials that run first.

    These are the dense model, and the rule's and uniform budgets at the given shares of the cost.
    """

    dense: bool = True
    uniform: tuple[Fraction, ...] = (0.5, 0.3, 0.15)
    rule: tuple[Fraction, ...] = (0.5, 0.3, 0.15)


class SearchConfig(Section):
    """The search."""

    trials: int = Field(48, ge=1)
    sampler: Annotated[str, choice(SAMPLERS)] = "tpe"
    scheduler: Annotated[str, choice(SCHEDULERS)] = Field(
        NONE, description="stops trials early; none: every trial runs to its end"
    )
    scheduler_objective: str | None = Field(
        None, description="objective by which the scheduler compares trials; null: the first that is no cost"
    )
    scheduler_images: int = Field(
        8, ge=1, description="search images of the evaluation after a recovery phase, only for a scheduler"
    )
    objectives: tuple[Objective, ...] = Field(
        (
            Objective("flops", Direction.MIN),
            Objective("boundary_f1", Direction.MAX),
            Objective("hd95", Direction.MIN),
        ),
        min_length=1,
    )
    cost: Metric = Field("flops_paper", description="the cost that `fraction` refers to")
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
    leverage_images: int = Field(16, ge=0, description="calibration images for a trial's leverage; 0: not computed")
    concurrency: int | None = Field(
        None, ge=1, description="trials that run at the same time; null: as many as the resources allow"
    )
    retries: int = Field(3, ge=0, description="restarts of a trial whose worker process died")

    @model_validator(mode="after")
    def _sound(self) -> SearchConfig:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives: {', '.join(names)}: list each once")
        if self.scheduler_objective not in (None, *names):
            raise ValueError(f"scheduler_objective '{self.scheduler_objective}' is none of {', '.join(names)}")
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
        return SchedulerSettings(self.scheduler, compared.name, compared.direction)

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
