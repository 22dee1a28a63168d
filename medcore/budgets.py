"""How many heads and channels each block keeps: uniform, rule and searched allocators (method §5).

Every allocator returns an `EncoderSpec`. Those that meet a FLOPs target live in `medcore.targets` and are
offered here too, so that callers find all of them in one place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from medcore.errors import MedcoreError
from medcore.groups import Array
from medcore.spec import Architecture, EncoderSpec
from medcore.targets import check_blocks, to_target, uniform_to_target

__all__ = [
    "MIN_CHANNEL_SHARE",
    "MIN_HEADS",
    "channels_of",
    "rule",
    "searched",
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
    return searched(arch, [head_share] * arch.depth, [channel_share] * arch.depth)


def searched(arch: Architecture, head_shares: Floats, channel_shares: Floats, round_to: int = 1) -> EncoderSpec:
    """Every block keeps its own share of heads and channels.

    Args:
        head_shares, channel_shares: (L,) shares kept, in [0, 1]; counts are rounded half up.
        round_to: channel counts become the nearest multiple of this (never 0 unless the count is 0, never
            above the dense width), because odd widths cost real time. Heads stay: their width is a multiple
            already.
    """
    if round_to < 1:
        raise MedcoreError(f"budget: round_to must be at least 1, got {round_to}")
    heads = _counts(head_shares, arch.num_heads, arch.depth, "head_shares")
    channels = _counts(channel_shares, arch.mlp_dim, arch.depth, "channel_shares")
    if round_to > 1:
        multiples = np.maximum((channels + round_to // 2) // round_to, channels > 0) * round_to
        channels = np.minimum(multiples, arch.mlp_dim)
    return _spec(arch, heads, channels)


def rule(
    arch: Architecture,
    head_sparsity: float,
    mlp_sparsity: float,
    sensitivity: Floats,
    protected: Collection[int] = (),
    min_heads: int = MIN_HEADS,
    min_channel_share: float = MIN_CHANNEL_SHARE,
) -> EncoderSpec:
    """MedCore's rule: a block gives up groups in inverse proportion to its sensitivity.

    Args:
        head_sparsity, mlp_sparsity: share of the heads and channels of all L blocks to remove, in [0, 1]; the
            total is rounded half up and met exactly.
        sensitivity: (L,) s_b >= 0, the Fisher information of each block (`scores.block_sensitivity`).
        protected: blocks that give up nothing (they still count in the totals).
        min_heads, min_channel_share: what every other block keeps (see `channels_of`).

    Raises:
        MedcoreError: the sparsity is out of reach under these minima; the message says how much can be
        removed.
    """
    protected = check_blocks(arch, protected, "protected")
    weights = _inverse(sensitivity, arch.depth)
    min_channels = channels_of(arch, min_channel_share)
    kept = []
    for family, sparsity, width, least in (
        ("head", head_sparsity, arch.num_heads, min_heads),
        ("mlp", mlp_sparsity, arch.mlp_dim, min_channels),
    ):
        if not 0 <= sparsity <= 1:
            raise MedcoreError(f"budget: {family}_sparsity must lie in [0, 1], got {sparsity}")
        if not 0 <= least <= width:
            raise MedcoreError(f"budget: the minimum kept ({family}) must lie in 0..{width}, got {least}")
        caps = np.full(arch.depth, width - least, dtype=np.int64)
        caps[list(protected)] = 0
        removed = _half_up(sparsity * width * arch.depth)
        if removed > caps.sum():
            raise MedcoreError(
                f"budget: {family}_sparsity {sparsity:g} removes {removed} of {width * arch.depth}, but "
                f"only {caps.sum()} ({caps.sum() / (width * arch.depth):.4f}) can go with {len(protected)} "
                f"protected blocks and at least {least} kept in the others; lower the sparsity or the minimum"
            )
        kept.append(width - _quotas(removed, weights, caps))
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


def _counts(shares: Floats, width: int, depth: int, name: str) -> Array:
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (depth,):
        raise MedcoreError(f"budget: {name} has shape {values.shape}, expected one share per block, ({depth},)")
    if not ((values >= 0) & (values <= 1)).all():
        raise MedcoreError(f"budget: {name} must lie in [0, 1], got {values.tolist()}")
    return np.floor(values * width + 0.5 + _DECIMAL).astype(np.int64)


def _half_up(value: float) -> int:
    return int(np.floor(value + 0.5 + _DECIMAL))


def _spec(arch: Architecture, heads: Array, channels: Array) -> EncoderSpec:
    return EncoderSpec(arch, tuple(map(int, heads)), tuple(map(int, channels)))
