"""MedCore's rule as its released code applies it, where that differs from the paper's text (method §5)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from medcore.budgets.limits import Floats, Limits, with_rule_minima
from medcore.errors import ConfigError
from medcore.models.sites import Array, Family, Site
from medcore.models.spec import Architecture, ModelSpec

_LOG = logging.getLogger(__name__)

#: Added to every sensitivity before the division.
_TINY = 1e-12


def released_rule(
    arch: Architecture, sparsity: Mapping[str, float], sensitivity: Floats, limits: Limits | None = None
) -> ModelSpec:
    """Let blocks give up groups in inverse proportion to their sensitivity, as MedCore's released code does.

    It differs from `rule` in five points. Shares of blocks are rounded one by one. The remainder of rounding and caps
    goes to the block with most room until that is full, then to the next. The least share is rounded to the nearest
    whole number. What the caps do not allow stays, with a warning. A sparsity is what this stage removes, not what is
    gone in all.

    Args:
        arch: the dense architecture.
        sparsity: family -> share of its dense groups in all L blocks to remove now, in [0, 1].
        sensitivity: (L,) s_b >= 0, the Fisher information of each block.
        limits: what to leave alone, as for `rule`.

    Raises:
        MedcoreError: a sparsity or a sensitivity is out of range.
    """
    limits = with_rule_minima(limits or Limits(), arch)
    values = np.asarray(sensitivity, dtype=np.float64)
    if values.shape != (len(arch.blocks),) or not np.isfinite(values).all() or (values < 0).any():
        raise ConfigError(
            f"budget: sensitivity must hold {len(arch.blocks)} finite numbers from 0 on, got {values}; score again"
        )
    counts = np.array(limits.widths(arch), dtype=np.int64)
    for family in arch.families:
        if family.name in sparsity:
            own = [index for index, site in enumerate(arch.sites) if site.family == family]
            counts[own] -= _removed(arch, family, sparsity[family.name], values, limits)
    return ModelSpec(arch, tuple(map(int, counts)))


def _removed(arch: Architecture, family: Family, sparsity: float, sensitivity: Array, limits: Limits) -> Array:
    """Return the number of groups that each site of one family gives up."""
    if not 0 <= sparsity <= 1:
        raise ConfigError(f"budget: the sparsity of {family.stage} must lie in [0, 1], got {sparsity}")
    protected = limits.blocks(arch)
    pairs = [pair for pair in zip(arch.sites, limits.widths(arch), strict=True) if pair[0].family == family]
    caps = np.array(
        [0 if site.block in protected else max(width - _least(limits, site), 0) for site, width in pairs], np.int64
    )
    dense = np.array([site.width for site, _ in pairs])
    wanted = int(np.rint(sparsity * dense.sum()))
    if wanted > caps.sum():
        _LOG.warning(
            "budget: a sparsity of %g removes %d %s, but the minima and protected blocks let only %d go",
            *(sparsity, wanted, family.name, caps.sum()),
        )
    blocks = np.array([site.block for site, _ in pairs])
    # sites of unequal width share a block's weight by their width
    weights = np.where(np.isin(blocks, protected), 0.0, dense / dense.max() / (sensitivity[blocks] + _TINY))
    return _split(wanted, weights, caps)


def _split(total: int, weights: Array, caps: Array) -> Array:
    """Return integers within the caps that sum to `total`, or to all caps if these allow less."""
    if not caps.any():
        return np.zeros_like(caps)
    quotas: Array = np.minimum(np.rint(total * weights / weights.sum()).astype(np.int64), caps)
    missing = min(total, int(caps.sum())) - int(quotas.sum())
    # the most room first, or the largest quota first if rounding took too many
    order = np.argsort(-(caps - quotas if missing > 0 else quotas), kind="stable")
    for site in order:
        change = int(np.clip(missing, -quotas[site], caps[site] - quotas[site]))
        quotas[site] += change
        missing -= change
    return quotas


def _least(limits: Limits, site: Site) -> int:
    """Return the number of groups that a site keeps at least; a share is rounded to the nearest whole number."""
    name = site.family.name
    return max(limits.least_count.get(name, 0), int(np.rint(limits.least_share.get(name, 0.0) * site.width)))
