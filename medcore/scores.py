"""Dual-intervention scores: computed once as a table, mixed by every trial in milliseconds (method §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medcore.cost import group_flops
from medcore.data import ImageSet
from medcore.errors import MedcoreError
from medcore.fisher import FisherTerms, Progress, fisher_terms
from medcore.groups import Array, PerGroup, channel_sums, head_sums
from medcore.sam import MedSam
from medcore.score_table import ScoreTable, table_key
from medcore.spec import Architecture

__all__ = [
    "ScoreTable",
    "ScoringWeights",
    "block_sensitivity",
    "build_table",
    "head_alphas",
    "mix",
    "table_key",
]

Floats = npt.NDArray[np.float64]

#: Boundary weights at which reset scores are tabulated unless told otherwise.
NODES = (0.0, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class ScoringWeights:
    """How a trial mixes a score table; the defaults are the reference, with equal data sets.

    Attributes:
        alpha_heads, alpha_channels: share of the zero score in [0, 1]; None: adaptive, one α per block.
        beta: weight of the variance over data sets.
        mixture: data set -> weight; normalised to sum 1, absent data sets weigh 0. None: equal.
        boundary_weight: w of the loss. It must be a node of the table where reset scores are needed.
        tau: scores are divided by (paper FLOPs of the group)^tau.
    """

    alpha_heads: float | None = None
    alpha_channels: float | None = None
    beta: float = 0.3
    mixture: Mapping[str, float] | None = None
    boundary_weight: float = 3.0
    tau: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha_heads", "alpha_channels"):
            alpha = getattr(self, name)
            if alpha is not None and not 0 <= alpha <= 1:
                raise MedcoreError(f"scoring weights: {name} must lie in [0, 1], got {alpha}")
        for name in ("beta", "boundary_weight", "tau"):
            if not np.isfinite(getattr(self, name)):
                raise MedcoreError(f"scoring weights: {name} must be finite, got {getattr(self, name)}")


def build_table(
    base: MedSam,
    adapted: MedSam,
    images: ImageSet,
    nodes: Sequence[float] = NODES,
    progress: Progress | None = None,
) -> ScoreTable:
    """Score every group of `adapted` (θM) against `base` (θS): FM per data set, FS on all images together.

    Both models must have the same widths. Pruned models may be scored too: `base` cut by the same masks.

    Raises:
        MedcoreError: the models differ in structure, or a data set has no image with finite gradients.
    """
    if base.spec != adapted.spec:
        raise MedcoreError("scoring: the general and the adapted model differ in architecture or widths")
    datasets = tuple(dict.fromkeys(images.datasets))
    total = 2 * len(images)
    done = 0

    def report(count: int, _all: int) -> None:
        if progress is not None:
            progress(done + count, total)

    general = fisher_terms(base, images, range(len(images)), report)
    done = len(images)
    rows, used, skipped = [], {}, {}
    for name in datasets:
        indices = [index for index, dataset in enumerate(images.datasets) if dataset == name]
        terms = fisher_terms(adapted, images, indices, report)
        rows.append(_score_blocks(base, adapted, general, terms, nodes))
        used[name], skipped[name] = terms.used, list(terms.skipped)
        done += len(indices)
    zero_heads, zero_channels, reset_heads, reset_channels, fisher = map(np.stack, zip(*rows, strict=True))
    meta = {
        "architecture": adapted.arch.name,
        "images": used,
        "skipped": skipped,
        "base_images": general.used,
        "base_skipped": list(general.skipped),
    }
    spec = None if adapted.spec.is_dense else adapted.spec
    return ScoreTable(
        datasets=datasets,
        nodes=tuple(map(float, nodes)),
        zero_heads=zero_heads,
        zero_channels=zero_channels,
        reset_heads=reset_heads,
        reset_channels=reset_channels,
        block_fisher=fisher,
        meta=meta,
        spec=spec,
    )


@torch.no_grad()
def _score_blocks(
    base: MedSam, adapted: MedSam, general: FisherTerms, terms: FisherTerms, nodes: Sequence[float]
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """One data set's rows of the table, in the order of `ScoreTable`'s arrays."""
    arch, spec = adapted.arch, adapted.spec
    zero = np.zeros((3, arch.depth, arch.num_heads)), np.zeros((3, arch.depth, arch.mlp_dim))
    reset = (
        np.zeros((len(nodes), arch.depth, arch.num_heads)),
        np.zeros((len(nodes), arch.depth, arch.mlp_dim)),
    )
    blocks = zip(base.image_encoder.blocks, adapted.image_encoder.blocks, strict=True)
    for number, (block_base, block_adapted) in enumerate(blocks):
        start, end = _parameters(block_base), _parameters(block_adapted)
        heads, channels = spec.heads[number], spec.channels[number]
        fisher, fisher_base = terms.parameters[number], general.parameters[number]
        for term in range(3):
            weighted = {name: 0.5 * value[term].double() * end[name].square() for name, value in fisher.items()}
            zero[0][term, number, :heads], zero[1][term, number, :channels] = _groups(weighted, heads)
        for node, w in enumerate(nodes):
            weighted = {
                name: 0.5
                * (_at(value, w) * _at(fisher_base[name].to(value.device), w) + 1e-30).sqrt()
                * (end[name] - start[name].to(end[name].device)).square()
                for name, value in fisher.items()
            }
            reset[0][node, number, :heads], reset[1][node, number, :channels] = _groups(weighted, heads)
    return *zero, *reset, terms.sums.T.copy()


def _parameters(block: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.double() for name, parameter in block.named_parameters()}


def _at(terms: Tensor, w: float) -> Tensor:
    """Fisher information at a boundary weight, float64; rounding may push a vanishing sum below 0."""
    a, b, c = terms.double().unbind()
    return (a + 2 * w * b + w**2 * c).clamp_min(0)


def _groups(values: Mapping[str, Tensor], heads: int) -> tuple[Array, Array]:
    """Sum a per-parameter quantity of one block over its heads and its channels."""
    per_head = (
        head_sums(values["attn.qkv.weight"], values["attn.qkv.bias"], values["attn.proj.weight"], heads)
        if heads
        else torch.zeros(0)
    )
    per_channel = channel_sums(values["mlp.lin1.weight"], values["mlp.lin1.bias"], values["mlp.lin2.weight"])
    return per_head.cpu().numpy(), per_channel.cpu().numpy()


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
    shares = _mixture(table, weights)
    adaptive = head_alphas(table, weights) if None in (weights.alpha_heads, weights.alpha_channels) else None
    families = []
    for family, fixed, flops in zip(
        ("heads", "channels"), (weights.alpha_heads, weights.alpha_channels), group_flops(arch), strict=True
    ):
        alpha = adaptive if fixed is None else np.full(arch.depth, fixed)
        assert alpha is not None
        scores = _zero(table, family, weights) * alpha[:, None]
        if (alpha != 1).any():
            scores = scores + _reset(table, family, weights) * (1 - alpha[:, None])
        # (D, L, G) -> (L, G)
        mixed = np.tensordot(shares, scores, axes=1) + weights.beta * scores.var(axis=0)
        mixed = mixed / np.asarray(flops, dtype=np.float64)[:, None] ** weights.tau
        families.append(tuple(row[:width] for row, width in zip(mixed, table.widths(family), strict=True)))
    return PerGroup(families[0], families[1])


def head_alphas(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """(L,) adaptive α_b = (1 + ρ_b)/2, ρ_b the correlation of zero and reset over block b's heads.

    Both scores are plain means over data sets at the boundary weight; constant scores give ρ_b = 1.
    """
    zero = _zero(table, "heads", weights).mean(axis=0)
    reset = _reset(table, "heads", weights).mean(axis=0)
    pairs = zip(zero, reset, table.widths("heads"), strict=True)
    return np.array([(1 + _pearson(one[:width], other[:width])) / 2 for one, other, width in pairs])


def block_sensitivity(table: ScoreTable, weights: ScoringWeights) -> Floats:
    """(L,) s_b: Fisher summed over each block at any w, data sets weighted by the mixture (method §5)."""
    w = weights.boundary_weight
    per_block = table.block_fisher[:, 0] + 2 * w * table.block_fisher[:, 1] + w**2 * table.block_fisher[:, 2]
    return np.maximum(_mixture(table, weights) @ per_block, 0.0)


def _zero(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """(D, L, G) zero scores, exact at any boundary weight."""
    terms = table.zero_heads if family == "heads" else table.zero_channels
    w = weights.boundary_weight
    return terms[:, 0] + 2 * w * terms[:, 1] + w**2 * terms[:, 2]


def _reset(table: ScoreTable, family: str, weights: ScoringWeights) -> Floats:
    """(D, L, G) reset scores at a node."""
    values = table.reset_heads if family == "heads" else table.reset_channels
    matches = np.flatnonzero(np.isclose(table.nodes, weights.boundary_weight, rtol=1e-9, atol=1e-12))
    if len(matches) == 0:
        nodes = ", ".join(f"{node:g}" for node in table.nodes)
        raise MedcoreError(
            f"scores: boundary weight {weights.boundary_weight:g} is not in the table; its nodes are {nodes} "
            "(choose one of them or score with this node)"
        )
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
