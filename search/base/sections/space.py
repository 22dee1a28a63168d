"""Section `search.space`: what a trial samples."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from medcore.scoring.criteria import CRITERIA
from medcore.training.orders import all_orders
from search.base.sections.dimensions import TRUTH_VALUES, Choices, Dimension, Fixed, Range, numbers, one_of, whole
from search.base.sections.families import FamilySection

Share = Annotated[Dimension, numbers(0, 1)]
#: A power of two.
Exponent = Annotated[Dimension, numbers(-8, 8)]
Count = Annotated[Dimension, whole(1)]
TruthValue = Annotated[Dimension, TRUTH_VALUES]


class SpaceConfig(FamilySection):
    """What a trial samples, in this order. A plain value fixes a dimension.

    `slope`, `follow` and `alpha` have one key per family, such as `slope_FAMILY`. The dimensions `lean` to `spread`
    shape the budget; `search.trials.sampling.preferences` has the formula. A dimension that is null takes its value
    from the section `schedule`.
    """

    by_family: ClassVar = {
        "slope": lambda family: Range(low=-1, high=1),
        "follow": lambda family: Range(low=-1, high=2),
        "alpha": lambda family: Range(low=0, high=1),
    }

    fraction: Annotated[Dimension, numbers(1e-6, 1)] = Field(
        Range(low=0.05, high=1.0, log=True), description="share of the dense encoder's cost; met to one group"
    )
    protected_last: Annotated[Dimension, whole(0)] = Field(
        Fixed(0), description="number of last blocks that keep all their groups"
    )
    lean: Exponent = Field(Range(low=-2, high=2), description="preference of the first family over the last")
    slope: dict[str, Exponent] = Field(default_factory=dict, description="preference of late blocks over early ones")
    global_bonus: Exponent = Field(Range(low=-1, high=1), description="preference of blocks with global attention")
    follow: dict[str, Exponent] = Field(default_factory=dict, description="preference of sensitive blocks")
    spread: Annotated[Dimension, numbers(0, 8)] = Field(
        Range(low=0, high=1), description="size of the free residuals, one per block and family"
    )
    criterion: Annotated[Dimension, one_of(CRITERIA)] = Field(Fixed("medcore"), description="what ranks the groups")
    blend: Share = Field(Fixed(1.0), description="share of `criterion`; MedCore's own score makes up the rest")
    alpha: dict[str, Share] = Field(
        default_factory=dict, description="share of the zero score, unless alpha is adaptive"
    )
    adaptive_alpha: TruthValue = Field(Choices(choices=(True, False)), description="one α per block from correlations")
    beta: Annotated[Dimension, numbers(0)] = Field(
        Range(low=0, high=1), description="weight of the variance over data sets"
    )
    boundary_weight: Annotated[Dimension, numbers(0)] = Field(
        Choices(choices=(0.0, 1.0, 3.0, 10.0)), description="fixed or choices, all among scoring.nodes"
    )
    mixture: Annotated[Dimension, numbers(1e-9)] = Field(
        Range(low=0.05, high=1, log=True), description="weight of a data set; one dimension per data set"
    )
    tau: Annotated[Dimension, numbers(-4, 4)] = Field(
        Fixed(0.0), description="exponent of a group's FLOPs, by which scores are divided"
    )
    order: Annotated[Dimension, one_of(all_orders)] | None = None
    rounds: Count | None = None
    rescore: TruthValue | None = None
    rescore_per_dataset: Count | None = None
    lr: Annotated[Dimension, numbers(1e-12, 10)] = Range(low=1e-5, high=1e-3, log=True)
    head_share: Share = Field(
        Range(low=0.1, high=0.9),
        description="share of the recovery steps that follow the pruning of the architecture's first family",
    )
