"""Section `search.space`: what a trial samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from medcore.models.architectures import families
from medcore.scoring.criteria import CRITERIA
from medcore.training.orders import all_orders
from search.base.sections.dimensions import TRUTH_VALUES, Dimension, Fixed, Range, numbers, one_of, whole
from search.base.sections.families import FamilySection
from search.base.sections.fields import as_saved_before

Share = Annotated[Dimension, numbers(0, 1)]
#: A power of two.
Exponent = Annotated[Dimension, numbers(-8, 8)]
Count = Annotated[Dimension, whole(1)]
TruthValue = Annotated[Dimension, TRUTH_VALUES]


#: What the preferences of sites shape: predicted losses, or shares of a uniform budget.
SHAPES = (CURVES, SHARES) = ("curves", "shares")


#: Keys of the section before curves existed.
_KEYS = frozenset(
    {"fraction", "protected_last", "lean", "global_bonus", "spread", "criterion", "blend", "adaptive_alpha", "beta"}
    | {"boundary_weight", "mixture", "tau", "order", "rounds", "rescore", "rescore_per_dataset", "lr", "head_share"}
)


#: Defaults of settings by family before curves existed.
_FAMILY_DEFAULTS = {"slope": {"low": -1, "high": 1}, "follow": {"low": -1, "high": 2}, "alpha": {"low": 0, "high": 1}}


class SpaceConfig(FamilySection):
    """What a trial samples, in this order. A plain value fixes a dimension.

    `slope`, `follow` and `alpha` have one key per family, such as `slope_FAMILY`. The dimensions `lean` to `spread`
    shape the budget; `search.trials.sampling.preferences` has the formula. With the shape `curves` they multiply the
    predicted loss of each site, and 0 throughout is the pure knapsack; with `shares` they multiply the share that
    each site keeps, and 0 throughout is the uniform budget. A dimension that is null takes its value from the
    sections `schedule`, `recovery` and `model`.
    """

    by_family: ClassVar = {
        "slope": lambda family: Fixed(0.0),
        "follow": lambda family: Fixed(0.0),
        "alpha": lambda family: Fixed(0.5),
    }

    shape: Annotated[Dimension, one_of(SHAPES)] = Field(
        Fixed(CURVES), description="curves: a knapsack over predicted losses; shares: around a uniform budget"
    )

    fraction: Annotated[Dimension, numbers(1e-6, 1)] = Field(
        Range(low=0.05, high=1.0, log=True), description="share of the dense encoder's cost; met to one group"
    )
    protected_last: Annotated[Dimension, whole(0)] = Field(
        Fixed(0), description="number of last blocks that keep all their groups"
    )
    exponent: Annotated[Dimension, numbers(0.1, 4)] = Field(
        Fixed(1.0), description="curves: power of the predicted losses"
    )
    lean: Exponent = Field(Fixed(0.0), description="preference of the first family over the last")
    slope: dict[str, Exponent] = Field(default_factory=dict, description="preference of late blocks over early ones")
    global_bonus: Exponent = Field(Fixed(0.0), description="preference of blocks with global attention")
    follow: dict[str, Exponent] = Field(default_factory=dict, description="preference of sensitive blocks")
    spread: Annotated[Dimension, numbers(0, 8)] = Field(
        Fixed(0.0), description="size of the free residuals, one per block and family; fixed at 0: none is drawn"
    )
    criterion: Annotated[Dimension, one_of(CRITERIA)] = Field(
        Fixed("second_order"), description="what ranks the groups"
    )
    blend: Share = Field(Fixed(1.0), description="share of `criterion`; MedCore's own score makes up the rest")
    alpha: dict[str, Share] = Field(
        default_factory=dict, description="share of the zero score, unless alpha is adaptive"
    )
    adaptive_alpha: TruthValue = Field(Fixed(True), description="one α per block from correlations")
    beta: Annotated[Dimension, numbers(0)] = Field(Fixed(0.3), description="weight of the variance over data sets")
    boundary_weight: Annotated[Dimension, numbers(0)] = Field(
        Fixed(3.0), description="fixed or choices, all among scoring.nodes"
    )
    mixture: Annotated[Dimension, numbers(1e-9)] = Field(
        Fixed(1.0), description="weight of a data set; one dimension per data set"
    )
    tau: Annotated[Dimension, numbers(-4, 4)] = Field(
        Fixed(0.0), description="exponent of a group's FLOPs, by which scores are divided"
    )
    order: Annotated[Dimension, one_of(all_orders)] | None = None
    rounds: Count | None = None
    rescore: TruthValue | None = None
    rescore_per_dataset: Count | None = None
    lr: Annotated[Dimension, numbers(1e-12, 10)] | None = Field(
        None, description="learning rate of the recovery; null: that of the section `recovery`"
    )
    steps: Annotated[Dimension, numbers(1, 1e6)] | None = Field(
        None, description="steps of the recovery, rounded; null: those of the section `recovery`"
    )
    side: Count | None = Field(
        None,
        description="pixels along the square; choices, the largest of which is the study's own side; null: that one. "
        "Every side is prepared for",
    )
    head_share: Share = Field(
        Fixed(0.5),
        description="share of the recovery steps that follow the pruning of the architecture's first family",
    )

    @model_validator(mode="before")
    @classmethod
    def _before_curves(cls, values: Any) -> Any:
        # such files leave out defaults of families that only a plug-in knows
        by_family = {f"{name}_{family}": value for name, value in _FAMILY_DEFAULTS.items() for family in families()}
        given = values.keys() if isinstance(values, Mapping) else ()
        left_out = {key: value for key, value in by_family.items() if key not in given}
        return as_saved_before(values, _KEYS, {"shape": SHARES, **left_out})

    @property
    def sides(self) -> tuple[int, ...]:
        """Return the sides among which a trial chooses; none if all trials have the study's."""
        return () if self.side is None else tuple(dict.fromkeys(int(side) for side in self.side.values))

    @property
    def draws_residuals(self) -> bool:
        """Whether a trial has a free number for every site."""
        return self.spread.values != (0.0,)
