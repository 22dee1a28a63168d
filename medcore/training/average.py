"""The mean of the weights of models that were recovered from the same cut with different seeds (method §14)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from medcore.errors import MedcoreError
from medcore.models.sam import MedSam


@torch.no_grad()
def mean_model(models: Iterable[MedSam]) -> MedSam:
    """Return the first model with the mean of all models' weights (14.6), in place.

    The sum is kept in float64, and one model at a time is added to it. What is no floating-point number stays that of
    the first model.

    Args:
        models: Models with the same groups, on one device. Training has changed some of their weights.

    Raises:
        MedcoreError: There is no model, or two of them keep different groups.
    """
    first, sums, count = None, {}, 0
    for model in models:
        if first is None:
            first = model
            sums = {name: tensor.double() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        elif model.spec != first.spec or not _same_groups(model, first):
            raise MedcoreError("average: the runs keep different groups, so their weights do not mix")
        else:
            state = model.state_dict()
            for name, total in sums.items():
                total += state[name]
        count += 1
    if first is None:
        raise MedcoreError("average: no model to take the mean of")
    for name, tensor in first.state_dict().items():
        if name in sums:
            tensor.copy_(sums[name] / count)
    return first


def _same_groups(one: MedSam, other: MedSam) -> bool:
    """Return whether two models of equal widths keep the same groups of the dense model, as far as is known."""
    if one.kept is None or other.kept is None:
        return True
    return all(np.array_equal(mine, its) for mine, its in zip(one.kept, other.kept, strict=True))
