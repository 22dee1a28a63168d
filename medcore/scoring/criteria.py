"""One score a group from a score table, by MedCore's mixture or a baseline (method §4, §10)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medcore.errors import CheckpointError, ConfigError
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.registry import Registry
from medcore.scoring.score_table import ScoreTable, families_of

Floats = npt.NDArray[np.float64]

#: Scores of one family, (S, G): higher means keep. Groups beyond a site's width are ignored.
Criterion = Callable[[ScoreTable, str, "ScoringWeights"], Floats]

#: Criteria to rank groups by: MedCore's own Q (method §4), and the baselines of method §10.
CRITERIA: Registry[Criterion] = Registry("criterion")
#: MedCore's criterion, with which all others can be blended.
OWN = "medcore"

#: What a criterion reads. "weights": the model's weights. "profile": the second-order profile (method §12). "weight":
#: Fisher statistics at the trial's boundary weight. "fisher": those at any weight.
Need = Literal["weights", "profile", "weight", "fisher"]
#: How data sets are averaged for an adaptive α.
CorrelationOver = Literal["datasets", "mixture"]
#: Need of each criterion. One that is not listed, such as a user's own, counts as "fisher".
NEEDS: dict[str, Need] = {
    OWN: "weight",
    "michel": "weight",
    "activation": "weight",
    "magnitude": "weights",
    "random": "weights",
    "second_order": "profile",
}

_ALPHA = "alpha_"


@dataclass(frozen=True)
class ScoringWeights:
    """Weights by which a trial mixes a score table (method §4).

    The defaults are the reference, with equal data sets.

    Attributes:
        alpha: family -> share of the zero score in [0, 1]. None, or no entry: adaptive, one α per block.
        beta: weight of the variance over data sets.
        mixture: data set -> weight; normalised to sum 1, absent data sets weigh 0. None: equal.
        boundary_weight: w of the loss. It must be a node of the table where reset scores are needed.
        tau: scores are divided by (paper FLOPs of the group)^tau.
        criterion: a name in `CRITERIA`. Of the fields above the baselines use `mixture` and `tau`, and Michel's uses
            `boundary_weight`.
        blend: share of `criterion` next to MedCore's own score, both divided by their mean over the site; 1: alone.
        seed: seed of the criterion "random".
        correlation_over: how the scores of data sets are averaged before they give an adaptive α: all alike
            ("datasets"), or by the "mixture", as MedCore's released code does.

    Raises:
        MedcoreError: a value is out of range, or the criterion is unknown.
    """

    alpha: Mapping[str, float | None] = field(default_factory=dict)
    beta: float = 0.3
    mixture: Mapping[str, float] | None = None
    boundary_weight: float = 3.0
    tau: float = 0.0
    criterion: str = OWN
    blend: float = 1.0
    seed: int = 0
    correlation_over: CorrelationOver = "datasets"

    def __post_init__(self) -> None:
        for family, alpha in self.alpha.items():
            if alpha is not None and not 0 <= alpha <= 1:
                raise ConfigError(f"scoring weights: {_ALPHA}{family} must lie in [0, 1], got {alpha}")
        if self.criterion not in CRITERIA:
            known = ", ".join(CRITERIA.names())
            raise ConfigError(f"scoring weights: unknown criterion '{self.criterion}'; known are {known}")
        if not 0 <= self.blend <= 1:
            raise ConfigError(f"scoring weights: blend must lie in [0, 1], got {self.blend}")
        for name in ("beta", "boundary_weight", "tau"):
            if not np.isfinite(getattr(self, name)):
                raise ConfigError(f"scoring weights: {name} must be finite, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with one `alpha_FAMILY` a family."""
        fields = dataclasses.asdict(self)
        return {**{f"{_ALPHA}{family}": value for family, value in fields.pop("alpha").items()}, **fields}

    @property
    def needs(self) -> frozenset[Need]:
        """Return what the criterion and its blend with MedCore's score read."""
        mixed = {OWN} if self.blend == 0 else {self.criterion} if self.blend == 1 else {OWN, self.criterion}
        return frozenset(NEEDS.get(name, "fisher") for name in mixed)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoringWeights:
        """Undo `to_dict`."""
        alpha = {name.removeprefix(_ALPHA): value for name, value in values.items() if name.startswith(_ALPHA)}
        return cls(alpha=alpha, **{name: value for name, value in values.items() if not name.startswith(_ALPHA)})


def criteria_for(table: ScoreTable) -> tuple[str, ...]:
    """Return the names of the criteria that a table serves, at one boundary weight at least."""
    held: set[Need] = {"weights"}
    if table.profile is not None:
        held.add("profile")
    if table.has_fisher:
        held.add("weight")
    if table.block_fisher.shape[1] == 3:
        held.add("fisher")
    return tuple(name for name in CRITERIA if NEEDS.get(name, "fisher") in held)


def mix(table: ScoreTable, weights: ScoringWeights, arch: Architecture) -> PerSite:
    """Score all groups of the scored model (4.5, 4.6).

    A higher score means keep. The variance is the unweighted population variance over all data sets of the table,
    whatever the mixture.

    Args:
        table: the score table.
        weights: how to mix it.
        arch: the architecture of the scored model.

    Returns:
        One float64 array a site, in the widths of the scored model.

    Raises:
        MedcoreError: a data set of the mixture is not in the table; reset scores are needed (an α other than
            1) at a boundary weight that is no node; the table belongs to another architecture; an α is set for a
            family that the architecture lacks.
    """
    _check_architecture(table, arch)
    if unknown := {name for name, alpha in weights.alpha.items() if alpha is not None} - set(table.families):
        names = ", ".join(_ALPHA + name for name in sorted(unknown))
        raise ConfigError(f"scoring weights: {names}: {arch.name} has only the families {', '.join(table.families)}")
    scores = []
    for family in arch.families:
        sites = [site for site in arch.sites if site.family == family]
        # groups without a cost of their own, such as those that hold other sites, count as one FLOP
        flops = np.array([max(site.cost.flops_paper, 1) for site in sites], dtype=np.float64)
        mixed = _blended(table, family.name, weights) / flops[:, None] ** weights.tau
        scores += [row[:width] for row, width in zip(mixed, table.widths(family.name), strict=True)]
    return tuple(scores)


def _check_architecture(table: ScoreTable, arch: Architecture) -> None:
    dense = families_of(ModelSpec.dense(arch))
    for name, sites in dense.items():
        own = table.families.get(name)
        if own is None or own.blocks != sites.blocks or table.array("magnitude", name).shape[-1] != max(sites.widths):
            raise CheckpointError(f"scores: the table's {name} are not those of {arch.name}; score this model")


def _blended(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return the (S, G) scores of one family before the cost exponent (4.6)."""
    if weights.criterion == OWN or weights.blend == 0:
        return CRITERIA[OWN](table, family, weights)
    other = CRITERIA[weights.criterion](table, family, weights)
    if weights.blend == 1:
        return other
    own = CRITERIA[OWN](table, family, weights)
    widths = table.widths(family)
    return (1 - weights.blend) * _normalised(own, widths) + weights.blend * _normalised(other, widths)


@CRITERIA.register(OWN)
def medcore_score(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return MedCore's score Q = Σ_r π_r·Q^(r) + β·Var_r[Q^(r)] (4.3, 4.5).

    Q^(r) is α_b·zero + (1 − α_b)·reset.
    """
    blocks, fixed = table.families[family].blocks, weights.alpha.get(family)
    alpha = adaptive_alphas(table, weights)[list(blocks)] if fixed is None else np.full(len(blocks), fixed)
    scores = _zero(table, family, weights.boundary_weight) * alpha[:, None]
    if (alpha != 1).any():
        scores = scores + _at_node(table, "reset", family, weights) * (1 - alpha[:, None])
    # (D, S, G) -> (S, G)
    mixed: Floats = np.tensordot(_mixture(table, weights), scores, axes=1) + weights.beta * scores.var(axis=0)
    return mixed


@CRITERIA.register("fisher")
def fisher(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return zero scores at w = 0, data sets by the mixture: Fisher pruning."""
    return _mixed(table, _zero(table, family, 0.0), weights)


@CRITERIA.register("michel")
def michel(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return Michel's head importance |∂loss/∂gate|, also for other families."""
    return _mixed(table, _at_node(table, "michel", family, weights), weights)


@CRITERIA.register("activation")
def activation(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return the mean activation of a group's output."""
    return _mixed(table, table.array("activation", family), weights)


@CRITERIA.register("magnitude")
def magnitude(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return Σθ² of a group."""
    return table.array("magnitude", family)


@CRITERIA.register("second_order")
def second_order(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return the place of each group in the second-order removal order (method §12).

    Raises:
        ConfigError: the table has no profile.
    """
    if table.profile is None:
        raise ConfigError("scores: criterion 'second_order' needs the second-order profile; compute it with the scores")
    own, names = np.zeros(table.array("magnitude", family).shape), list(table.families)
    # the profile has the order of the architecture's sites, family by family
    first = sum(len(table.families[name].widths) for name in names[: names.index(family)])
    for row, places in zip(own, table.profile.scores()[first : first + len(own)], strict=True):
        row[: len(places)] = places
    return own


@CRITERIA.register("random")
def random(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """Return random scores, drawn by the seed and the family's place in the table."""
    stream = list(table.families).index(family)
    drawn: Floats = np.random.default_rng([weights.seed, stream]).random(table.array("magnitude", family).shape)
    return drawn


def _mixed(table: ScoreTable, per_dataset: Floats, weights: ScoringWeights) -> Floats:
    """Weigh data sets by the mixture, without a variance term: (D, S, G) -> (S, G)."""
    mixed: Floats = np.tensordot(_mixture(table, weights), per_dataset, axes=1)
    return mixed


def _normalised(scores: Floats, widths: Sequence[int]) -> Floats:
    """Divide (S, G) scores by the mean of their site's groups.

    Criteria of different units can then be added.
    """
    mean = np.array([row[:width].mean() if width else 0.0 for row, width in zip(scores, widths, strict=True)])[:, None]
    normalised: Floats = np.divide(scores, mean, out=np.zeros_like(scores), where=mean > 0)
    return normalised


def adaptive_alphas(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """Return α_b = (1 + ρ_b)/2 of every block (4.4), (L,).

    ρ_b is the correlation of zero and reset scores over the groups of one family in block b. The family is the first of
    the architecture that has several groups in the block. Both scores are means over data sets at the boundary weight,
    plain ones or by the mixture (`ScoringWeights.correlation_over`); constant scores give ρ_b = 1.
    """
    alphas: dict[int, float] = {}

    def averaged(scores: Floats) -> Floats:
        if weights.correlation_over == "datasets":
            plain: Floats = scores.mean(axis=0)
            return plain
        return _mixed(table, scores, weights)

    for family, sites in table.families.items():
        zero = averaged(_zero(table, family, weights.boundary_weight))
        reset = averaged(_at_node(table, "reset", family, weights))
        dense = zero.shape[-1]
        for row, (block, width) in enumerate(zip(sites.blocks, sites.widths, strict=True)):
            if dense > 1 and block not in alphas:
                alphas[block] = (1 + _pearson(zero[row, :width], reset[row, :width])) / 2
    return np.array([alphas.get(block, 1.0) for block in range(table.block_fisher.shape[-1])])


def block_sensitivity(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """Return s_b, the Fisher information summed over each block (5.1), (L,).

    The sum is exact at any boundary weight. The mixture weights the data sets.
    """
    per_block = table.at_weight(table.block_fisher, weights.boundary_weight)
    return np.maximum(_mixture(table, weights) @ per_block, 0.0)


def known_sensitivity(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """Return `block_sensitivity`, or ones if the table has no Fisher information, (L,)."""
    if table.has_fisher:
        return block_sensitivity(table, weights)
    return np.ones(table.block_fisher.shape[-1])


def _zero(table: ScoreTable, family: str, w: float) -> Floats:
    """Return (D, S, G) zero scores (4.1), exact at boundary weight w."""
    return table.at_weight(table.array("zero", family), w)


def _at_node(table: ScoreTable, statistic: str, family: str, weights: ScoringWeights) -> Floats:
    """Return the (D, S, G) of a statistic that is known at the nodes only.

    Raises:
        ConfigError: the boundary weight is no node of the table, or the table lacks the statistic.
    """
    values = table.array(statistic, family)
    matches = np.flatnonzero(np.isclose(table.nodes, weights.boundary_weight, rtol=1e-9, atol=1e-12))
    if len(matches) == 0:
        nodes = ", ".join(f"{node:g}" for node in table.nodes)
        raise ConfigError(
            f"scores: boundary weight {weights.boundary_weight:g} is not in the table; its nodes are {nodes} "
            "(choose one of them or score with this node)"
        )
    return values[:, matches[0]]


def _mixture(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """Return the weights of the data sets, (D,), sum 1."""
    if weights.mixture is None:
        return np.full(len(table.datasets), 1 / len(table.datasets))
    if unknown := sorted(set(weights.mixture) - set(table.datasets)):
        known = ", ".join(table.datasets)
        raise ConfigError(f"scores: mixture names {', '.join(unknown)}; the score table knows {known}")
    shares = np.array([weights.mixture.get(name, 0.0) for name in table.datasets], dtype=np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise ConfigError(f"scores: mixture weights must be >= 0 and not all 0, got {dict(weights.mixture)}")
    normalised: Floats = shares / shares.sum()
    return normalised


def _pearson(one: Floats, other: Floats) -> float:
    """Return the Pearson correlation.

    The correlation is 1 if either side is constant or there are fewer than two values.
    """
    if any(len(side) < 2 or np.ptp(side) <= 1e-12 * np.abs(side).max() for side in (one, other)):
        return 1.0
    # normalised first: scores may be so small that their products underflow
    one, other = (side / np.abs(side).max() for side in (one, other))
    one, other = one - one.mean(), other - other.mean()
    return float(np.clip(one @ other / np.sqrt((one @ one) * (other @ other)), -1, 1))
