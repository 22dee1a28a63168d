"""Section `scoring`: how groups are scored."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medcore.scoring.criteria import CRITERIA, CorrelationOver, ScoringWeights
from search.base.sections.families import FamilySection
from search.base.sections.fields import NotNegative, Share, choice

#: Fields that decide how scores are computed, not how they are mixed.
_JOB = {"nodes", "part_size", "base"}


class ScoringConfig(FamilySection):
    """Scoring weights of `medcore prune` and of the warm starts (method §4, §5).

    The defaults are the reference.
    """

    by_family: ClassVar = {"alpha": lambda family: None}

    nodes: tuple[float, ...] = Field(
        (0.0, 1.0, 3.0, 10.0), description="boundary weights for which the table keeps reset scores"
    )
    part_size: int = Field(32, ge=1, description="images per shard of the scoring job; a search runs shards on Ray")
    alpha: dict[str, Share | None] = Field(
        default_factory=dict, description="alpha_FAMILY: share of the zero score; null: adaptive, one α per block"
    )
    correlation_over: CorrelationOver = Field(
        "datasets", description="means that give an adaptive α: of all data sets alike, or by the mixture"
    )
    base: Literal["cut", "dense"] = Field(
        "cut", description="Fisher information of the general model: after it is cut as the adapted one, or before"
    )
    beta: NotNegative = Field(0.3, description="weight of the variance over data sets")
    criterion: Annotated[str, choice(CRITERIA)] = Field("second_order", description="what ranks the groups")
    blend: Share = Field(1.0, description="share of `criterion`; MedCore's own score makes up the rest")
    mixture: dict[str, NotNegative] | None = Field(None, description="weight per data set; null: equal weights")
    boundary_weight: float = Field(3.0, ge=0, description="weight of the boundary in the loss; one of `nodes`")
    tau: float = Field(0.0, ge=0, description="exponent of a group's FLOPs, by which scores are divided")

    @model_validator(mode="after")
    def _weight_is_a_node(self) -> ScoringConfig:
        if self.boundary_weight not in self.nodes:
            raise ValueError(f"boundary_weight {self.boundary_weight:g} must be one of nodes {list(self.nodes)}")
        return self

    def weights(self, seed: int = 0) -> ScoringWeights:
        """Return the configured scoring weights, as opposed to sampled ones.

        Args:
            seed: Seed of the criterion `random`.
        """
        return ScoringWeights(**{name: value for name, value in self if name not in _JOB}, seed=seed)
