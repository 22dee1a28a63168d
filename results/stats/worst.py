"""Choose the images on which the given models fail most."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medcore.quality.catalogue import worst_by

_LABELS = ["dataset", "name"]


def worst_images(images: pd.DataFrame, trial_ids: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Choose at most `count` images, the same for all models.

    So their sheets can be compared. The models take turns. Each adds the image of its own largest HD95 that is not
    in the list yet, because the largest of all would be those of the weakest model alone.

    Args:
        images: Metrics of every image of trials, as `results.store.trials.read_images` returns them.
        trial_ids: The models.
        count: How many images.

    Returns:
        (data set, name) of each image.
    """
    if worst_by() not in images:
        return []
    turns = [turn for trial_id in trial_ids if (turn := _worst_first(images[images["trial_id"] == trial_id]))]
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < count and any(turns):
        for turn in turns:
            while turn and turn[0] in chosen:
                turn.pop(0)
            if turn and len(chosen) < count:
                chosen[turn.pop(0)] = None
    return list(chosen)


def _worst_first(images: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (data set, name) of one model's images, the largest HD95 first."""
    ordered = images.sort_values([worst_by(), *_LABELS], ascending=[False, True, True])
    return list(ordered[_LABELS].itertuples(index=False, name=None))
