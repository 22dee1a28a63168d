"""Budgets of given sparsity: uniform shares, and MedCore's rule (method §5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medcore.budgets.limits import DECIMAL, Floats, Limits, with_rule_minima
from medcore.errors import ConfigError
from medcore.models.sites import Array, Family
from medcore.models.spec import Architecture, ModelSpec


def uniform(arch: Architecture, shares: Mapping[str, float]) -> ModelSpec:
    """Let every site of a family keep the same share of its groups, rounded half up.

    Args:
        arch: the dense architecture.
        shares: family -> share in [0, 1]; families without one stay whole.

    Raises:
        MedcoreError: a share is out of range.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"budget: the share of {name} must lie in [0, 1], got {share}")
    return ModelSpec(arch, tuple(_half_up(shares.get(site.family.name, 1.0) * site.width) for site in arch.sites))


def rule(
    arch: Architecture, sparsity: Mapping[str, float], sensitivity: Floats, limits: Limits | None = None
) -> ModelSpec:
    """Let blocks give up groups in inverse proportion to their sensitivity.

    This is MedCore's rule (5.2–5.4).

    Args:
        arch: the dense architecture.
        sparsity: family -> share of its groups in all L blocks to remove, in [0, 1]; the total is rounded half up and
            met exactly. Families without one give up nothing more.
        sensitivity: (L,) s_b >= 0, the Fisher information of each block (`criteria.block_sensitivity`).
        limits: what to leave alone. Protected blocks still count in the totals, families without a minimum have the
            rule's own, and what earlier stages removed counts towards the sparsity. Width rounding does not apply.

    Raises:
        MedcoreError: the sparsity is out of reach under these minima; the message says how much can be removed.
    """
    limits = with_rule_minima(limits or Limits(), arch)
    weights = _inverse(sensitivity, len(arch.blocks))
    counts = np.array(limits.widths(arch), dtype=np.int64)
    for family in arch.families:
        if family.name in sparsity:
            own = [index for index, site in enumerate(arch.sites) if site.family == family]
            counts[own] -= _removed(arch, family, sparsity[family.name], weights, limits)
    return ModelSpec(arch, tuple(map(int, counts)))


def _removed(arch: Architecture, family: Family, sparsity: float, weights: Array, limits: Limits) -> Array:
    """Return the number of groups that each site of one family gives up."""
    name, protected = family.stage, limits.blocks(arch)
    pairs = [pair for pair in zip(arch.sites, limits.widths(arch), strict=True) if pair[0].family == family]
    if not 0 <= sparsity <= 1:
        raise ConfigError(f"budget: the sparsity of {name} must lie in [0, 1], got {sparsity}")
    caps = np.array([0 if site.block in protected else max(width - limits.least(site), 0) for site, width in pairs])
    total = sum(site.width for site, _ in pairs)
    gone = total - sum(width for _, width in pairs)
    removed = _half_up(sparsity * total) - gone
    if removed < 0:
        raise ConfigError(
            f"budget: earlier stages removed {gone / total:.4f} of all {family.name}, more than the sparsity "
            f"{sparsity:g}; sparsities are cumulative"
        )
    if removed > caps.sum():
        least = min(limits.least(site) for site, _ in pairs)
        raise ConfigError(
            f"budget: the sparsity {sparsity:g} of {name} removes {removed + gone} of {total}, but "
            f"only {caps.sum() + gone} ({(caps.sum() + gone) / total:.4f}) can go with {len(protected)} "
            f"protected blocks and at least {least} kept in the others; lower the sparsity or the minimum"
        )
    # sites of unequal width share a block's weight by their width
    widest = max(site.width for site, _ in pairs)
    shared = np.array([weights[site.block] * (site.width / widest) for site, _ in pairs])
    return _largest(removed, shared, caps) if widest == 1 else _quotas(removed, shared, caps)


def _largest(total: int, weights: Array, caps: Array) -> Array:
    """Take one group from each of the sites with the largest weights, for sites of one group such as whole blocks.

    The arguments are those of `_quotas`. Equal weights go to the lower index.

    Returns:
        (S,) integers that sum to `total`.
    """
    chosen = np.lexsort((np.arange(len(caps)), -weights, caps == 0))[:total]
    return np.isin(np.arange(len(caps)), chosen).astype(np.int64)


def _quotas(total: int, weights: Array, caps: Array) -> Array:
    """Return integers that sum to `total`, as (5.3) and (5.4) share it out.

    The integers are proportional to `weights` up to the caps; head-room decides who gets the rest.

    Args:
        total: at most Σ caps.
        weights: (S,), not negative.
        caps: (S,) integers.

    Returns:
        (S,) integers.
    """
    quotas = np.minimum(_apportion(total, np.where(caps > 0, weights, 0.0)), caps)
    room = caps - quotas
    # rest <= Σ room, so no site receives more than its room and one pass is enough
    quotas += _apportion(total - int(quotas.sum()), room.astype(np.float64))
    return quotas


def _apportion(total: int, weights: Array) -> Array:
    """Share out `total` by `weights` with largest remainders.

    Equal remainders go to the lower index.
    """
    if total == 0:
        return np.zeros(len(weights), dtype=np.int64)
    exact = total * weights / weights.sum()
    shares: Array = np.floor(exact).astype(np.int64)
    order = np.lexsort((np.arange(len(weights)), shares - exact))
    shares[order[: total - shares.sum()]] += 1
    return shares


def _inverse(sensitivity: Floats, depth: int) -> Array:
    """Return 1/s_b up to a factor, (L,).

    A block of zero sensitivity counts as 1e-12 of the most sensitive one.
    """
    values = np.asarray(sensitivity, dtype=np.float64)
    if values.shape != (depth,):
        raise ConfigError(f"budget: sensitivity has shape {values.shape}, expected ({depth},)")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ConfigError("budget: sensitivity must be finite and not negative; score the model again")
    largest = float(values.max())
    if largest == 0:
        return np.ones(depth)
    return 1 / np.maximum(values / largest, 1e-12)


def _half_up(value: float) -> int:
    return int(np.floor(value + 0.5 + DECIMAL))
