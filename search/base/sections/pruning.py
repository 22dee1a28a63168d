"""Sections `recovery`, `budget` and `schedule`: how much is cut, when, and how the model recovers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from medcore.budgets.allocators import ALLOCATORS, BY_SPARSITY, Request
from medcore.budgets.knapsack import Target
from medcore.budgets.limits import Floats, Limits
from medcore.budgets.prices import TIME, Prices, linear_prices
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.training.orders import TOGETHER, LossVariant, MaskSize, NeckLayers, RateSchedule, all_orders, recovery_rate
from medcore.training.plans.registry import PLANS, ROUNDS
from medcore.training.terms.registry import LOSS_TERMS, RECOMMENDED_TERMS
from search.base.sections.families import FamilySection
from search.base.sections.fields import (
    Fraction,
    NotNegative,
    PathField,
    Section,
    Share,
    as_saved_before,
    choice,
    keys_among,
)
from search.base.sections.times import DESCRIPTION, Cost, absolute, check_times, counted, prices_of

#: Keys of the section `recovery` before refits existed, and what later keys meant then.
_KEYS = frozenset({"steps", "head_share", "batch_size", "lr", "lambdas", "lr_schedule", "autocast", "save_every"})
_BEFORE_NECK_REFITS: dict[str, Any] = {"refit_neck": "none"}
_BEFORE_TERMS: dict[str, Any] = {"terms": {}, **_BEFORE_NECK_REFITS}
_BEFORE_REFITS = {"warmup": 0, "average": 0.0, "refit_images": 0, **_BEFORE_TERMS}
#: The same before further terms of the loss existed.
_KEYS_BEFORE_TERMS = _KEYS | {"warmup", "average", "refit_images", "refit_ridge"}
#: The same before refits solved for the neck.
_KEYS_BEFORE_NECK_REFITS = _KEYS_BEFORE_TERMS | {"terms"}
#: What a plan with its own ranking decides, by the setting that others have for it.
_OWN = {"order": "order of cuts", "rescore": "scores", "stages": "way to one budget"}
#: Allocators that meet counted costs only, or none.
_COUNTED_ONLY = (*BY_SPARSITY, "uniform", "to_target")


class RecoveryConfig(Section):
    """Refit and recovery after the pruning phases (method §6, §11, §13).

    The section of a study that was saved before refits existed keeps its meaning: no refit, no warm-up, no average, and
    no further terms of the loss. It is recognised by having all keys of that time and none of the later ones. So is one
    that was saved before further terms existed, or before refits solved for the neck.
    """

    steps: int = Field(200, ge=0, description="optimiser steps over all phases and rounds")
    head_share: Share = Field(
        0.5, description="share of the steps that follow the pruning of the architecture's first family"
    )
    batch_size: int = Field(4, ge=1)
    lr: float | None = Field(None, gt=0, description="null: 1e-4, and more below a tenth of the FLOPs (method §13)")
    lambdas: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = Field(
        (1.0, 0.5, 2.0, 0.5), description="weights of the four terms of the loss"
    )
    lr_schedule: RateSchedule = "constant"
    warmup: int = Field(5, ge=0, description="steps of linear rise of the learning rate, in each recovery")
    average: Share = Field(0.5, description="share of the last steps whose weights are averaged; 0: the last weights")
    refit_images: int = Field(64, ge=0, description="calibration images of the closed-form refit; 0: no refit")
    refit_ridge: NotNegative = Field(1e-3, description="ridge of the refit, in units of the mean variance")
    refit_neck: Literal["auto", "none", "pointwise", "all"] = Field(
        "auto",
        description="convolutions of the neck that a refit solves for, too: none, pointwise (1 × 1) or all; auto: "
        "pointwise before a recovery, all without one",
    )
    loss: LossVariant = Field("text", description="text: (6.2); released: Dice and frequencies of the released code")
    complexity: MaskSize = Field("square", description="masks whose complexity weighs the images (6.1)")
    decoder_rate: NotNegative = Field(
        0.1, description="factor on the learning rate for the weights of the mask decoder, where it trains"
    )
    train_decoder: bool = Field(
        False,
        description="train the mask decoder also where nothing of it is cut (method §13); exports then hold another",
    )
    terms: Annotated[dict[str, NotNegative], keys_among(LOSS_TERMS)] = Field(
        default_factory=lambda: dict(RECOMMENDED_TERMS),
        description="weights of further terms of the loss: directional (6.6), lomix (6.9); a term left out weighs 0, "
        "and {} leaves out all",
    )
    autocast: bool = Field(False, description="run the model in bfloat16")
    save_every: int = Field(
        50,
        ge=0,
        description="steps between two saves of a trial's state (at most 5 % of the time); 0: only after phases",
    )

    @property
    def neck(self) -> NeckLayers:
        """The layers of the neck that a refit solves for."""
        if self.refit_neck != "auto":
            return self.refit_neck
        return "pointwise" if self.steps else "all"

    def rate(self, fraction: float) -> float:
        """Return the learning rate for a model with this share of the dense encoder's FLOPs (13.3)."""
        return recovery_rate(fraction) if self.lr is None else self.lr

    @model_validator(mode="before")
    @classmethod
    def _before_refits(cls, values: Any) -> Any:
        saved = as_saved_before(values, _KEYS, _BEFORE_REFITS)
        saved = as_saved_before(saved, _KEYS_BEFORE_TERMS, _BEFORE_TERMS)
        return as_saved_before(saved, _KEYS_BEFORE_NECK_REFITS, _BEFORE_NECK_REFITS)


class BudgetConfig(FamilySection):
    """How much is cut, and where.

    Sparsities are shares of all groups of the dense encoder. Those of the allocator `rule` are cumulative over stages;
    those of `released_rule` are what one stage removes.

    `sparsity`, `min_count` and `min_share` have one key per family, such as `sparsity_FAMILY`.
    """

    by_family: ClassVar = {
        "sparsity": lambda family: family.sparsity,
        "min_count": lambda family: None,
        "min_share": lambda family: None,
    }

    allocator: Annotated[str, choice(ALLOCATORS)] = "knapsack"
    sparsity: dict[str, Share] = Field(
        default_factory=dict, description="the rules: share of the family's groups to remove"
    )
    protected: tuple[int, ...] = Field((), description="blocks that keep all their groups")
    min_count: dict[str, Annotated[int, Field(ge=0)] | None] = Field(
        default_factory=dict,
        description="least number kept in a block; null: the rule's own minimum, or 0 for other allocators",
    )
    min_share: dict[str, Share | None] = Field(
        default_factory=dict, description="least share kept in a block; null: as for min_count"
    )
    fraction: Fraction = Field(0.5, description="all but the rules: share of the dense encoder's cost to keep")
    cost: Cost = Field(
        "flops_paper", description="all but the rules: the cost that `fraction` refers to; time: knapsack only"
    )
    times: PathField | None = Field(None, description=DESCRIPTION)
    within: dict[Cost, Fraction] = Field(
        default_factory=dict,
        description="knapsack only: shares of several costs that all hold, in place of `fraction` and `cost`",
    )
    multiple: int = Field(1, ge=1, description="all but the rules: keep multiples of this width, as odd ones cost time")

    @model_validator(mode="after")
    def _sound(self) -> BudgetConfig:
        check_times(self.shares, self.times)
        if TIME in self.shares and self.allocator in _COUNTED_ONLY:
            raise ValueError(f"allocator {self.allocator} cannot meet measured time; take knapsack or a counted cost")
        if self.within and self.allocator in (*_COUNTED_ONLY, *BY_SPARSITY):
            raise ValueError(f"allocator {self.allocator} cannot meet several costs; take knapsack or leave out within")
        return self

    @property
    def shares(self) -> dict[Cost, float]:
        """Largest share of each cost that the budget has to meet."""
        return dict(self.within) or {self.cost: self.fraction}

    def absolute(self) -> BudgetConfig:
        """Return the same budget with an absolute path."""
        return self.model_copy(update={"times": absolute(self.times)})

    def prices(self, arch: Architecture) -> Prices | None:
        """Return what widths cost in measured time; None if no cost is.

        Raises:
            MedcoreError: As `search.base.sections.times.prices_of`.
        """
        return prices_of(self.times, arch)

    def targets(self, arch: Architecture) -> tuple[Target, ...]:
        """Return the costs that the budget has to stay within, in the order in which they are written.

        Raises:
            MedcoreError: As `prices`.
        """
        timed = self.prices(arch)
        return tuple(
            Target(timed if timed is not None and name == TIME else linear_prices(arch, counted(name)), share)
            for name, share in self.shares.items()
        )

    def request(self, sensitivity: Floats, current: ModelSpec, curves: PerSite | None = None) -> Request:
        """Return what the allocator has to meet.

        Args:
            sensitivity: (L,) Fisher information s_b of the blocks.
            current: The widths that earlier stages left.
            curves: Predicted loss of each width of each site; None where there is no second-order profile.

        Raises:
            MedcoreError: As `prices`.
        """
        limits = Limits(
            protected=self.protected,
            least_count={family: count for family, count in self.min_count.items() if count is not None},
            least_share={family: share for family, share in self.min_share.items() if share is not None},
            multiple=self.multiple,
            current=current,
        )
        return Request(
            current.arch,
            sensitivity,
            self.sparsity,
            fraction=self.fraction,
            metric=counted(self.cost),
            limits=limits,
            curves=curves,
            prices=self.prices(current.arch),
            within=self.targets(current.arch) if self.within else (),
        )


class ScheduleConfig(Section):
    """When the groups are cut (method §6)."""

    plan: Annotated[str, choice(PLANS)] = Field(
        ROUNDS,
        description="rounds: equal steps; plateau: chances to cut in the first 40 % of the recovery, taken when the "
        "loss stands still and taken back when it rises (6.10)",
    )
    order: Annotated[str, choice(all_orders)] = Field(
        TOGETHER, description="together, or the family whose pruning comes first"
    )
    rounds: int = Field(1, ge=1, description="equal steps towards each budget; every step has its own recovery")
    rescore: bool = Field(False, description="rank by fresh scores in every round but the first")
    rescore_per_dataset: int = Field(16, ge=1, description="calibration images per data set for fresh scores")
    stages: tuple[BudgetConfig, ...] = Field((), description="budgets that `medcore prune` meets before `budget`")
    stages_from: Literal["start", "previous"] = Field(
        "start",
        description="model that scores, sensitivities and teacher of a stage belong to: the one at the start of the "
        "run, or that of the stage before; previous: the steps are spread evenly over the stages",
    )

    @model_validator(mode="after")
    def _sound(self) -> ScheduleConfig:
        if PLANS[self.plan].own_ranking:
            standard = {"order": TOGETHER, "rescore": False, "stages": ()}
            for name, value in standard.items():
                if getattr(self, name) != value:
                    raise ValueError(f"plan {self.plan} has its own {_OWN[name]}; leave out {name}")
        return self

    def absolute(self) -> ScheduleConfig:
        """Return the same schedule with absolute paths."""
        return self.model_copy(update={"stages": tuple(stage.absolute() for stage in self.stages)})
