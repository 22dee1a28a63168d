"""From scores and a budget to keep masks: within a block the lowest scores go first (method §5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcore.errors import MedcoreError
from medcore.models.groups import Array, PerGroup
from medcore.models.spec import EncoderSpec


def select(scores: PerGroup, spec: EncoderSpec) -> PerGroup:
    """Keep the highest-scored groups of every block; among equal scores the lower index goes first.

    Args:
        scores: one value per group of the model to prune, in its current widths.
        spec: heads and channels every block is to keep.

    Returns: bool keep masks in the shapes of `scores`.

    Raises:
        MedcoreError: a score is NaN, a block has fewer groups than it is to keep, or the depths differ.
    """
    if len(scores.heads) != spec.arch.depth or len(scores.channels) != spec.arch.depth:
        raise MedcoreError(
            f"masks: scores of {len(scores.heads)} blocks for an encoder of {spec.arch.depth}; "
            "score this model before pruning it"
        )
    return PerGroup(
        _keep_highest(scores.heads, spec.heads, "head"),
        _keep_highest(scores.channels, spec.channels, "channel"),
    )


def keep_all(spec: EncoderSpec) -> PerGroup:
    """Masks that keep every group of a model with the widths of `spec`."""
    return PerGroup(
        tuple(np.ones(count, dtype=bool) for count in spec.heads),
        tuple(np.ones(count, dtype=bool) for count in spec.channels),
    )


def _keep_highest(scores: Sequence[Array], keep: Sequence[int], family: str) -> tuple[Array, ...]:
    masks = []
    for block, (values, count) in enumerate(zip(scores, keep, strict=True)):
        if len(values) < count:
            raise MedcoreError(
                f"masks: block {block} has {len(values)} {family} scores but is to keep {count}; "
                "the budget must not exceed the model's widths"
            )
        if np.isnan(values).any():
            index = int(np.flatnonzero(np.isnan(values))[0])
            raise MedcoreError(f"masks: the score of block {block} {family} {index} is NaN; score again")
        # stable: equal scores stay in index order, so the lower index is dropped first
        order = np.argsort(values, kind="stable")
        mask = np.ones(len(values), dtype=bool)
        mask[order[: len(values) - count]] = False
        masks.append(mask)
    return tuple(masks)
