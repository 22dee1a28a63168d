"""How many heads and channels each block keeps: the allocators (method §5).

Every allocator returns an `EncoderSpec`. Those that meet a FLOPs target live in `medcore.budgets.targets` and are
offered here too, so that callers find all of them in one place; the searched allocator is `to_target` with a trial's
own per-block preferences.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from medcore.budgets.targets import check_blocks, smallest_fraction, to_target, uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.groups import Array
from medcore.models.spec import Architecture, EncoderSpec

__all__ = [
    "MIN_CHANNEL_SHARE",
    "MIN_HEADS",
    "channels_of",
    "rule",
    "smallest_fraction",
    "to_target",
    "uniform",
    "uniform_to_target",
]

Floats = Sequence[float] | npt.NDArray[np.float64]

#: What the rule leaves in every block that is not protected: heads, and share of the channels.
MIN_HEADS, MIN_CHANNEL_SHARE = 1, 0.05
#: Forgives the binary representation of decimal shares: 0.29 · 100 is 28.999999999999996.
_DECIMAL = 1e-9


def uniform(arch: Architecture, head_share: float, channel_share: float) -> EncoderSpec:
    """Every block keeps the same share of its heads and of its channels (rounded half up)."""
    counts = []
    for name, share, width in (("head", head_share, arch.num_heads), ("channel", channel_share, arch.mlp_dim)):
        if not 0 <= share <= 1:
            raise MedcoreError(f"budget: {name}_share must lie in [0, 1], got {share}")
        counts.append((_half_up(share * width),) * arch.depth)
    return EncoderSpec(arch, counts[0], counts[1])


def rule(
    arch: Architecture,
    head_sparsity: float,
    mlp_sparsity: float,
    sensitivity: Floats,
    protected: Collection[int] = (),
    min_heads: int = MIN_HEADS,
    min_channel_share: float = MIN_CHANNEL_SHARE,
    current: EncoderSpec | None = None,
) -> EncoderSpec:
    """MedCore's rule: a block gives up groups in inverse proportion to its sensitivity.

    Args:
        head_sparsity, mlp_sparsity: share of the heads and channels of all L blocks to remove, in [0, 1]; the
            total is rounded half up and met exactly.
        sensitivity: (L,) s_b >= 0, the Fisher information of each block (`scores.block_sensitivity`).
        protected: blocks that give up nothing more (they still count in the totals).
        min_heads, min_channel_share: what every other block keeps (see `channels_of`).
        current: widths that earlier stages left. Sparsities are cumulative: what is gone counts towards them.

    Raises:
        MedcoreError: the sparsity is out of reach under these minima; the message says how much can be
        removed.
    """
    protected = check_blocks(arch, protected, "protected")
    weights = _inverse(sensitivity, arch.depth)
    min_channels = channels_of(arch, min_channel_share)
    current = EncoderSpec.dense(arch) if current is None else current
    kept = []
    for family, sparsity, width, counts, least in (
        ("head", head_sparsity, arch.num_heads, current.heads, min_heads),
        ("mlp", mlp_sparsity, arch.mlp_dim, current.channels, min_channels),
    ):
        if not 0 <= sparsity <= 1:
            raise MedcoreError(f"budget: {family}_sparsity must lie in [0, 1], got {sparsity}")
        if not 0 <= least <= width:
            raise MedcoreError(f"budget: the minimum kept ({family}) must lie in 0..{width}, got {least}")
        have = np.array(counts, dtype=np.int64)
        caps = np.maximum(have - least, 0)
        caps[list(protected)] = 0
        total, gone = width * arch.depth, width * arch.depth - int(have.sum())
        removed = _half_up(sparsity * total) - gone
        if removed < 0:
            raise MedcoreError(
                f"budget: earlier stages removed {gone / total:.4f} of all {family} groups, more than "
                f"{family}_sparsity {sparsity:g}; sparsities are cumulative"
            )
        if removed > caps.sum():
            raise MedcoreError(
                f"budget: {family}_sparsity {sparsity:g} removes {removed + gone} of {total}, but "
                f"only {caps.sum() + gone} ({(caps.sum() + gone) / total:.4f}) can go with {len(protected)} "
                f"protected blocks and at least {least} kept in the others; lower the sparsity or the minimum"
            )
        kept.append(have - _quotas(removed, weights, caps))
    return _spec(arch, kept[0], kept[1])


def channels_of(arch: Architecture, share: float) -> int:
    """The whole channels in a share of a dense block's, floor(share · M)."""
    return int(np.floor(share * arch.mlp_dim + _DECIMAL))


def _quotas(total: int, weights: Array, caps: Array) -> Array:
    """Integers that sum to `total` <= Σ caps: proportional to `weights`, capped, the rest by head-room."""
    quotas = np.minimum(_apportion(total, np.where(caps > 0, weights, 0.0)), caps)
    room = caps - quotas
    # rest <= Σ room, so no block receives more than its room and one pass is enough
    quotas += _apportion(total - int(quotas.sum()), room.astype(np.float64))
    return quotas


def _apportion(total: int, weights: Array) -> Array:
    """Largest-remainder apportionment of `total` by `weights`; equal remainders go to the lower index."""
    if total == 0:
        return np.zeros(len(weights), dtype=np.int64)
    exact = total * weights / weights.sum()
    shares: Array = np.floor(exact).astype(np.int64)
    order = np.lexsort((np.arange(len(weights)), shares - exact))
    shares[order[: total - shares.sum()]] += 1
    return shares


def _inverse(sensitivity: Floats, depth: int) -> Array:
    """1/s_b up to a factor; a block of zero sensitivity counts as 1e-12 of the most sensitive one."""
    values = np.asarray(sensitivity, dtype=np.float64)
    if values.shape != (depth,):
        raise MedcoreError(f"budget: sensitivity has shape {values.shape}, expected ({depth},)")
    if not np.isfinite(values).all() or (values < 0).any():
        raise MedcoreError("budget: sensitivity must be finite and not negative; score the model again")
    largest = float(values.max())
    if largest == 0:
        return np.ones(depth)
    return 1 / np.maximum(values / largest, 1e-12)


def _half_up(value: float) -> int:
    return int(np.floor(value + 0.5 + _DECIMAL))


def _spec(arch: Architecture, heads: Array, channels: Array) -> EncoderSpec:
    return EncoderSpec(arch, tuple(map(int, heads)), tuple(map(int, channels)))
