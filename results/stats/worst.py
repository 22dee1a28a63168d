"""Which images tell most of what a few models get wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def worst_images(images: pd.DataFrame, trial_ids: Sequence[str], count: int) -> list[tuple[str, str]]:
    """(data set, name) of at most `count` images, the same for all models, so that their sheets can be compared.

    The models take turns, each naming the largest HD95 of its own that is not in yet: the list of the largest of all
    would be the weakest model's alone.

    Args:
        images: per-image metrics of trials, as `results.store.trials.read_images` returns them.
    """
    if "hd95" not in images:
        return []
    turns = [
        list(own.itertuples(index=False, name=None))
        for trial_id in trial_ids
        if len(
            own := images[images["trial_id"] == trial_id].sort_values(
                ["hd95", "dataset", "name"], ascending=[False, True, True]
            )[["dataset", "name"]]
        )
    ]
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < count and any(turns):
        for turn in turns:
            while turn and turn[0] in chosen:
                turn.pop(0)
            if turn and len(chosen) < count:
                chosen[turn.pop(0)] = None
    return list(chosen)
