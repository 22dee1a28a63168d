"""Budgets that meet a cost target: per-block preferences on one common scale (method §5, to-target).

Group number k of a family of W groups and preference p is kept from the scale s = (k - ½)/(p·W) on. So a
larger scale keeps a superset, all families grow together, and the cost is a step function of s that bisection
inverts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.spec import Architecture, EncoderSpec

Metric = Literal["flops_paper", "flops", "encoder_params"]
Floats = Sequence[float] | npt.NDArray[np.float64]

#: A preference of 0 counts as this share of the largest: such groups come last, but any fraction is in reach.
_LEAST_PREFERENCE = 1e-6


@dataclass(frozen=True)
class GroupCosts:
    """Cost of one group in every block; exact, because every cost figure is linear in the counts.

    heads, channels: (L,) float64. dense: cost of the dense encoder. fixed: of what no pruning removes.
    """

    heads: npt.NDArray[np.float64]
    channels: npt.NDArray[np.float64]
    dense: float
    fixed: float


@lru_cache(maxsize=64)
def group_costs(arch: Architecture, metric: Metric) -> GroupCosts:
    """Per-group costs by differencing `cost.cost`, so that there is one cost model only."""
    if metric not in ("flops_paper", "flops", "encoder_params"):
        raise MedcoreError(f"budget: unknown metric '{metric}'; known are flops_paper, flops, encoder_params")
    full = EncoderSpec.dense(arch)
    dense = float(getattr(cost(full), metric))

    def saved(spec: EncoderSpec) -> float:
        return dense - float(getattr(cost(spec), metric))

    def one_less(counts: tuple[int, ...], block: int) -> tuple[int, ...]:
        return (*counts[:block], counts[block] - 1, *counts[block + 1 :])

    blocks = range(arch.depth)
    heads = np.array([saved(replace(full, heads=one_less(full.heads, b))) for b in blocks])
    channels = np.array([saved(replace(full, channels=one_less(full.channels, b))) for b in blocks])
    fixed = dense - float(heads.sum()) * arch.num_heads - float(channels.sum()) * arch.mlp_dim
    return GroupCosts(heads, channels, dense, fixed)


def to_target(
    arch: Architecture,
    head_preferences: Floats,
    channel_preferences: Floats,
    fraction: float,
    metric: Metric = "flops_paper",
    protected: Collection[int] = (),
    min_heads: int = 0,
    min_channels: int = 0,
    multiple: int = 1,
    current: EncoderSpec | None = None,
) -> EncoderSpec:
    """Budget whose cost is `fraction` of the dense encoder's, shaped by per-block preferences.

    First the scale is found at which heads and channels together come closest to the target, which settles
    the heads; then the channels alone move along the same order to close what is left of a head's cost. So
    the cost misses the target by at most half a channel, or by half a head where the channels are at their
    limits. Head counts never fall when the fraction rises, nor does the cost for fractions at least a
    channel's cost apart. Equal preferences give equal blocks, to one group.

    Args:
        head_preferences, channel_preferences: (L,) >= 0, relative to each other only: twice the preference
            keeps twice the share. 0 keeps groups only when nothing else is left to keep.
        fraction: of the dense encoder's `metric`, in (0, 1].
        protected: blocks that keep everything they have. min_heads, min_channels: kept in every block (or all it has).
        multiple: channel counts are multiples of this, because odd widths cost real time; a "group" of channels above
            is then this many of them. It must divide the dense width.
        current: widths of a model that is pruned already; no block grows beyond them.

    Raises:
        MedcoreError: the fraction is below what the unprunable parts, minima and protected blocks cost; the
            message names the smallest attainable fraction.
    """
    if not 0 < fraction <= 1:
        raise MedcoreError(f"budget: fraction must lie in (0, 1], got {fraction}")
    if not 0 <= min_heads <= arch.num_heads or not 0 <= min_channels <= arch.mlp_dim:
        raise MedcoreError(
            f"budget: min_heads must lie in 0..{arch.num_heads} and min_channels in 0..{arch.mlp_dim}, "
            f"got {min_heads} and {min_channels}"
        )
    current = EncoderSpec.dense(arch) if current is None else current
    if multiple < 1 or any(width % multiple for width in (arch.mlp_dim, *current.channels)):
        raise MedcoreError(f"budget: channel counts {sorted({*current.channels})} are no multiples of {multiple}")
    costs, depth = group_costs(arch, metric), arch.depth
    most = np.concatenate([current.heads, np.asarray(current.channels) // multiple])
    least = np.minimum(np.repeat([min_heads, -(-min_channels // multiple)], depth), most)
    blocks = list(check_blocks(arch, protected, "protected"))
    for block in (*blocks, *(depth + block for block in blocks)):
        least[block] = most[block]
    families = _Families(
        np.repeat([arch.num_heads, arch.mlp_dim // multiple], depth), least, most,
        _preferences(arch, head_preferences, channel_preferences),
        np.concatenate([costs.heads, costs.channels * multiple]),
    )  # fmt: skip
    target = fraction * costs.dense - costs.fixed
    floor = float(least @ families.costs)
    if target < floor - 1e-9 * costs.dense:
        smallest = (floor + costs.fixed) / costs.dense
        raise MedcoreError(
            f"budget: a {metric} fraction of {fraction:g} is out of reach; the smallest attainable is "
            f"{np.ceil(smallest * 1e4) / 1e4:.4f} with {len(blocks)} protected blocks and these minima"
        )
    heads = families.closest(target)[:depth]
    channels = families.part(slice(depth, None)).closest(target - float(heads @ costs.heads))
    return EncoderSpec(arch, tuple(map(int, heads)), tuple(int(count) * multiple for count in channels))


def smallest_fraction(arch: Architecture, metric: Metric = "flops_paper", protected: Collection[int] = ()) -> float:
    """Share of the dense encoder's cost that is left when all but the protected blocks lose every group."""
    costs, blocks = group_costs(arch, metric), list(check_blocks(arch, protected, "protected"))
    kept = costs.heads[blocks].sum() * arch.num_heads + costs.channels[blocks].sum() * arch.mlp_dim
    return float(costs.fixed + kept) / costs.dense


def uniform_to_target(
    arch: Architecture,
    fraction: float,
    metric: Metric = "flops_paper",
    protected: Collection[int] = (),
    multiple: int = 1,
    current: EncoderSpec | None = None,
) -> EncoderSpec:
    """Uniform budget of a given cost: the same share in every block that is not protected, to one group."""
    equal = np.ones(arch.depth)
    return to_target(arch, equal, equal, fraction, metric, protected, multiple=multiple, current=current)


def check_blocks(arch: Architecture, blocks: Collection[int], name: str) -> tuple[int, ...]:
    """The distinct block numbers in order; raises `MedcoreError` for one that does not exist."""
    for block in blocks:
        if not 0 <= block < arch.depth:
            raise MedcoreError(f"budget: {name} names block {block}; blocks are 0..{arch.depth - 1}")
    return tuple(sorted(set(blocks)))


@dataclass(frozen=True)
class _Families:
    """Families of equal groups (one per block and kind); (F,) each: dense width, least and most, preference, cost."""

    widths: npt.NDArray[np.int64]
    least: npt.NDArray[np.int64]
    most: npt.NDArray[np.int64]
    preferences: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float64]

    def part(self, which: slice) -> _Families:
        return _Families(
            self.widths[which], self.least[which], self.most[which], self.preferences[which], self.costs[which]
        )

    def counts(self, scale: float) -> npt.NDArray[np.int64]:
        """(F,) groups kept at a scale."""
        wanted = np.floor(scale * self.preferences * self.widths + 0.5)
        return np.clip(wanted, self.least, self.most).astype(np.int64)

    def closest(self, target: float) -> npt.NDArray[np.int64]:
        """(F,) counts along the scale whose cost is closest to `target`; of two equally close the cheaper."""
        low, high = 0.0, float(2 / self.preferences.min())
        below, above = self.least, self.most
        while (above - below).sum() > 1:
            middle = (low + high) / 2
            if not low < middle < high:
                break  # neighbouring floats: the groups in between have equal thresholds
            counts = self.counts(middle)
            if counts @ self.costs <= target:
                low, below = middle, counts
            else:
                high, above = middle, counts
        return self._nearest_between(below, above, target)

    def _nearest_between(
        self, below: npt.NDArray[np.int64], above: npt.NDArray[np.int64], target: float
    ) -> npt.NDArray[np.int64]:
        """Add single groups to `below` by rising threshold, up to the cost closest to `target`."""
        family = np.repeat(np.arange(len(below)), above - below)
        number = 1 + np.concatenate([np.arange(*ends) for ends in zip(below, above, strict=True)])
        threshold = (number - 0.5) / (self.preferences[family] * self.widths[family])
        order = np.lexsort((family, threshold))
        reached = float(below @ self.costs) + np.concatenate([[0.0], np.cumsum(self.costs[family[order]])])
        added = family[order[: int(np.argmin(np.abs(reached - target)))]]
        return below + np.bincount(added, minlength=len(below))


def _preferences(arch: Architecture, heads: Floats, channels: Floats) -> npt.NDArray[np.float64]:
    """(2L,) positive preferences, heads before channels."""
    parts = []
    for name, given in (("head_preferences", heads), ("channel_preferences", channels)):
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (arch.depth,):
            raise MedcoreError(f"budget: {name} has shape {values.shape}, expected ({arch.depth},)")
        if not np.isfinite(values).all() or (values < 0).any():
            raise MedcoreError(f"budget: {name} must be finite and not negative, got {values.tolist()}")
        parts.append(values)
    joined = np.concatenate(parts)
    largest = float(joined.max())
    if largest == 0:
        raise MedcoreError("budget: all preferences are 0; give at least one block a positive preference")
    return np.maximum(joined / largest, _LEAST_PREFERENCE)
