"""From a score table to one score a group, in milliseconds: MedCore's mixture and its baselines (method §4, §10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medcore.errors import MedcoreError
from medcore.models.cost import group_flops
from medcore.models.groups import PerGroup
from medcore.models.spec import Architecture
from medcore.scoring.score_table import ScoreTable

Floats = npt.NDArray[np.float64]

#: What groups may be ranked by. Besides MedCore's own Q (method §4) these are the baselines of method §10: Fisher
#: pruning (zero scores at w = 0), Michel's head importance |∂loss/∂gate| and its analogue for channels, the mean
#: activation, the magnitude Σθ², and chance.
CRITERIA = ("medcore", "fisher", "michel", "activation", "magnitude", "random")


@dataclass(frozen=True)
class ScoringWeights:
    """How a trial mixes a score table; the defaults are the reference, with equal data sets.

    Attributes:
        alpha_heads, alpha_channels: share of the zero score in [0, 1]; None: adaptive, one α per block.
        beta: weight of the variance over data sets.
        mixture: data set -> weight; normalised to sum 1, absent data sets weigh 0. None: equal.
        boundary_weight: w of the loss. It must be a node of the table where reset scores are needed.
        tau: scores are divided by (paper FLOPs of the group)^tau.
        criterion: one of `CRITERIA`; of the fields above the others use `mixture` and `tau`, michel `boundary_weight`.
        blend: share of `criterion` beside MedCore's own score, both divided by their mean over the block; 1: alone.
        seed: of the criterion "random".
    """

    alpha_heads: float | None = None
    alpha_channels: float | None = None
    beta: float = 0.3
    mixture: Mapping[str, float] | None = None
    boundary_weight: float = 3.0
    tau: float = 0.0
    criterion: str = "medcore"
    blend: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha_heads", "alpha_channels"):
            alpha = getattr(self, name)
            if alpha is not None and not 0 <= alpha <= 1:
                raise MedcoreError(f"scoring weights: {name} must lie in [0, 1], got {alpha}")
        if self.criterion not in CRITERIA:
            raise MedcoreError(
                f"scoring weights: unknown criterion '{self.criterion}'; known are {', '.join(CRITERIA)}"
            )
        if not 0 <= self.blend <= 1:
            raise MedcoreError(f"scoring weights: blend must lie in [0, 1], got {self.blend}")
        for name in ("beta", "boundary_weight", "tau"):
            if not np.isfinite(getattr(self, name)):
                raise MedcoreError(f"scoring weights: {name} must be finite, got {getattr(self, name)}")


def mix(table: ScoreTable, weights: ScoringWeights, arch: Architecture) -> PerGroup:
    """Scores Q of all groups, float64, in the widths of the scored model; higher means keep (method §4).

    The variance is the unweighted population variance over all data sets of the table, whatever the mixture.

    Raises:
        MedcoreError: a data set of the mixture is not in the table; reset scores are needed (an α other than
            1) at a boundary weight that is no node; the table belongs to another architecture.
    """
    shape = (*table.zero_heads.shape[-2:], table.zero_channels.shape[-1])
    if shape != (arch.depth, arch.num_heads, arch.mlp_dim):
        raise MedcoreError(
            f"scores: the table has (blocks, heads, channels) = {shape}, which {arch.name} has not; score this model"
        )
    families = []
    for number, (family, flops) in enumerate(zip(("heads", "channels"), group_flops(arch), strict=True)):
        mixed = _blended(table, family, weights, stream=number)
        mixed = mixed / np.asarray(flops, dtype=np.float64)[:, None] ** weights.tau
        families.append(tuple(row[:width] for row, width in zip(mixed, table.widths(family), strict=True)))
    return PerGroup(families[0], families[1])


def _blended(table: ScoreTable, family: str, weights: ScoringWeights, stream: int) -> Floats:
    """(L, G) scores of one family before the cost exponent."""
    if weights.criterion == "medcore" or weights.blend == 0:
        return _medcore(table, family, weights)
    other = _baseline(table, family, weights, stream)
    if weights.blend == 1:
        return other
    own = _medcore(table, family, weights)
    widths = table.widths(family)
    return (1 - weights.blend) * _normalised(own, widths) + weights.blend * _normalised(other, widths)


def _medcore(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """(L, G) Q = Σ_r π_r·Q^(r) + β·Var_r[Q^(r)], Q^(r) = α_b·zero + (1 − α_b)·reset."""
    fixed = weights.alpha_heads if family == "heads" else weights.alpha_channels
    alpha = head_alphas(table, weights) if fixed is None else np.full(len(table.block_fisher[0, 0]), fixed)
    scores = _zero(table, family, weights.boundary_weight) * alpha[:, None]
    if (alpha != 1).any():
        scores = scores + _at_node(table, f"reset_{family}", weights) * (1 - alpha[:, None])
    # (D, L, G) -> (L, G)
    mixed: Floats = np.tensordot(_mixture(table, weights), scores, axes=1) + weights.beta * scores.var(axis=0)
    return mixed


def _baseline(table: ScoreTable, family: str, weights: ScoringWeights, stream: int) -> Floats:
    """(L, G) scores of a criterion other than MedCore's; data sets by the mixture, without a variance term."""
    magnitude: Floats = getattr(table, f"magnitude_{family}")
    if weights.criterion == "magnitude":
        return magnitude
    if weights.criterion == "random":
        drawn: Floats = np.random.default_rng([weights.seed, stream]).random(magnitude.shape)
        return drawn
    per_dataset: Floats
    if weights.criterion == "fisher":
        per_dataset = _zero(table, family, 0.0)
    elif weights.criterion == "michel":
        per_dataset = _at_node(table, f"michel_{family}", weights)
    else:
        per_dataset = getattr(table, f"activation_{family}")
    mixed: Floats = np.tensordot(_mixture(table, weights), per_dataset, axes=1)
    return mixed


def _normalised(scores: Floats, widths: Sequence[int]) -> Floats:
    """(L, G) scores over the mean of their block's groups, so that criteria of different units can be added."""
    mean = np.array([row[:width].mean() if width else 0.0 for row, width in zip(scores, widths, strict=True)])[:, None]
    normalised: Floats = np.divide(scores, mean, out=np.zeros_like(scores), where=mean > 0)
    return normalised


def head_alphas(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """(L,) adaptive α_b = (1 + ρ_b)/2, ρ_b the correlation of zero and reset over block b's heads.

    Both scores are plain means over data sets at the boundary weight; constant scores give ρ_b = 1.
    """
    zero = _zero(table, "heads", weights.boundary_weight).mean(axis=0)
    reset = _at_node(table, "reset_heads", weights).mean(axis=0)
    pairs = zip(zero, reset, table.widths("heads"), strict=True)
    return np.array([(1 + _pearson(one[:width], other[:width])) / 2 for one, other, width in pairs])


def block_sensitivity(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """(L,) s_b: Fisher summed over each block at any w, data sets weighted by the mixture (method §5)."""
    w = weights.boundary_weight
    per_block = table.block_fisher[:, 0] + 2 * w * table.block_fisher[:, 1] + w**2 * table.block_fisher[:, 2]
    return np.maximum(_mixture(table, weights) @ per_block, 0.0)


def _zero(table: ScoreTable, family: str, w: float) -> Floats:
    """(D, L, G) zero scores, exact at any boundary weight w."""
    a, b, c = np.moveaxis(getattr(table, f"zero_{family}"), 1, 0)
    scores: Floats = a + 2 * w * b + w**2 * c
    return scores


def _at_node(table: ScoreTable, name: str, weights: ScoringWeights) -> Floats:
    """(D, L, G) of an array that is known at the nodes only."""
    matches = np.flatnonzero(np.isclose(table.nodes, weights.boundary_weight, rtol=1e-9, atol=1e-12))
    if len(matches) == 0:
        nodes = ", ".join(f"{node:g}" for node in table.nodes)
        raise MedcoreError(
            f"scores: boundary weight {weights.boundary_weight:g} is not in the table; its nodes are {nodes} "
            "(choose one of them or score with this node)"
        )
    values: Floats = getattr(table, name)
    return values[:, matches[0]]


def _mixture(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """(D,) weights of the data sets, sum 1."""
    if weights.mixture is None:
        return np.full(len(table.datasets), 1 / len(table.datasets))
    if unknown := sorted(set(weights.mixture) - set(table.datasets)):
        known = ", ".join(table.datasets)
        raise MedcoreError(f"scores: mixture names {', '.join(unknown)}; the score table knows {known}")
    shares = np.array([weights.mixture.get(name, 0.0) for name in table.datasets], dtype=np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise MedcoreError(f"scores: mixture weights must be >= 0 and not all 0, got {dict(weights.mixture)}")
    normalised: Floats = shares / shares.sum()
    return normalised


def _pearson(one: Floats, other: Floats) -> float:
    """Pearson correlation; 1 where either side is constant or there are fewer than two values."""
    if any(len(side) < 2 or np.ptp(side) <= 1e-12 * np.abs(side).max() for side in (one, other)):
        return 1.0
    # normalised first: scores may be so small that their products underflow
    one, other = (side / np.abs(side).max() for side in (one, other))
    one, other = one - one.mean(), other - other.mean()
    return float(np.clip(one @ other / np.sqrt((one @ one) * (other @ other)), -1, 1))
