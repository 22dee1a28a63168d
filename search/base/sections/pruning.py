"""Sections `recovery`, `budget` and `schedule`: how much is cut, when, and how the model recovers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from medcore.budgets.allocators import ALLOCATORS, Request
from medcore.budgets.limits import Floats, Limits, Metric
from medcore.models.spec import ModelSpec
from medcore.training.orders import RateSchedule, all_orders
from search.base.sections.families import FamilySection
from search.base.sections.fields import Fraction, NotNegative, Section, Share, choice


class RecoveryConfig(Section):
    """Recovery after the pruning phases (method §6)."""

    steps: int = Field(200, ge=0, description="optimiser steps over all phases and rounds")
    head_share: Share = Field(
        0.5, description="share of the steps that follow the pruning of the architecture's first family"
    )
    batch_size: int = Field(4, ge=1)
    lr: float = Field(1e-5, gt=0)
    lambdas: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = Field(
        (1.0, 0.5, 2.0, 0.5), description="weights of the four terms of the loss"
    )
    lr_schedule: RateSchedule = "constant"
    autocast: bool = Field(False, description="run the model in bfloat16")
    save_every: int = Field(
        50,
        ge=0,
        description="steps between two saves of a trial's state (at most 5 % of the time); 0: only after phases",
    )


class BudgetConfig(FamilySection):
    """How much is cut, and where.

    Sparsities are cumulative over stages and count over all blocks.

    `sparsity`, `min_count` and `min_share` have one key per family, such as `sparsity_FAMILY`.
    """

    by_family: ClassVar = {
        "sparsity": lambda family: family.sparsity,
        "min_count": lambda family: None,
        "min_share": lambda family: None,
    }

    allocator: Annotated[str, choice(ALLOCATORS)] = "rule"
    sparsity: dict[str, Share] = Field(default_factory=dict, description="rule: share of the family's groups to remove")
    protected: tuple[int, ...] = Field((), description="blocks that keep all their groups")
    min_count: dict[str, Annotated[int, Field(ge=0)] | None] = Field(
        default_factory=dict,
        description="least number kept in a block; null: the rule's own minimum, or 0 for other allocators",
    )
    min_share: dict[str, Share | None] = Field(
        default_factory=dict, description="least share kept in a block; null: as for min_count"
    )
    fraction: Fraction = Field(0.5, description="uniform, to_target: share of the dense encoder's cost to keep")
    cost: Metric = Field("flops_paper", description="uniform, to_target: the cost that `fraction` refers to")
    multiple: int = Field(
        1, ge=1, description="uniform, to_target: keep multiples of this width where odd ones cost time"
    )

    def request(self, sensitivity: Floats, current: ModelSpec) -> Request:
        """Return what the allocator has to meet.

        Args:
            sensitivity: (L,) Fisher information s_b of the blocks.
            current: The widths that earlier stages left.
        """
        limits = Limits(
            protected=self.protected,
            least_count={family: count for family, count in self.min_count.items() if count is not None},
            least_share={family: share for family, share in self.min_share.items() if share is not None},
            multiple=self.multiple,
            current=current,
        )
        return Request(
            current.arch, sensitivity, self.sparsity, fraction=self.fraction, metric=self.cost, limits=limits
        )


class ScheduleConfig(Section):
    """When the groups are cut (method §6)."""

    order: Annotated[str, choice(all_orders)] = Field(
        default_factory=lambda: all_orders()[0], description="family whose pruning comes first, or together"
    )
    rounds: int = Field(1, ge=1, description="equal steps towards each budget; every step has its own recovery")
    rescore: bool = Field(False, description="rank by fresh scores in every round but the first")
    rescore_per_dataset: int = Field(16, ge=1, description="calibration images per data set for fresh scores")
    stages: tuple[BudgetConfig, ...] = Field((), description="budgets that `medcore prune` meets before `budget`")
