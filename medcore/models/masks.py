"""Keep masks from scores and a budget. Within a site the lowest scores go first (method §5)."""

from __future__ import annotations

import numpy as np

from medcore.errors import CheckpointError
from medcore.models.sites import Array, PerSite, Site
from medcore.models.spec import ModelSpec


def select(scores: PerSite, spec: ModelSpec) -> PerSite:
    """Keep the highest-scored groups of every site.

    Among equal scores the lower index goes first.

    Args:
        scores: one value per group of the model to prune, in its current widths.
        spec: the widths to keep.

    Returns:
        Bool keep masks in the shapes of `scores`.

    Raises:
        MedcoreError: a score is NaN, a site has fewer groups than it is to keep, or the number of sites differs.
    """
    if len(scores) != len(spec.widths):
        raise CheckpointError(
            f"masks: scores of {len(scores)} sites for a model of {len(spec.widths)}; "
            "score this model before pruning it"
        )
    sites = zip(spec.arch.sites, scores, spec.widths, strict=True)
    return tuple(_keep_highest(site, values, count) for site, values, count in sites)


def keep_all(spec: ModelSpec) -> PerSite:
    """Return masks that keep every group of a model with the widths of `spec`."""
    return tuple(np.ones(width, dtype=bool) for width in spec.widths)


def _keep_highest(site: Site, values: Array, count: int) -> Array:
    where, word = f"block {site.block}", site.family.singular
    if len(values) < count:
        raise CheckpointError(
            f"masks: {where} has {len(values)} {word} scores but is to keep {count}; "
            "the budget must not exceed the model's widths"
        )
    if np.isnan(values).any():
        index = int(np.flatnonzero(np.isnan(values))[0])
        raise CheckpointError(f"masks: the score of {where} {word} {index} is NaN; score again")
    # stable, so equal scores stay in index order and the lower index is dropped first
    order = np.argsort(values, kind="stable")
    mask = np.ones(len(values), dtype=bool)
    mask[order[: len(values) - count]] = False
    return mask
