"""What a scheduler sees of a trial on the way: figures on search images at a named fidelity (method §14)."""

from __future__ import annotations

import numpy as np

from medcore.models.sam import MedSam
from medcore.quality.agreement import band_errors
from medcore.quality.evaluate import evaluate_logits, low_logits, summarise
from results.stats.objectives import names_of
from search.study.inputs import Shared

#: The fidelity right after the last refit.
REFIT = "refit"
#: The fidelity after a third of the last recovery. The model then holds the mean of its last steps (13.2).
PART = "part"
#: Shares of the last recovery's steps after which a scheduler that halves sees the trial.
PAUSES = (1 / 3,)
#: Name of the error in the boundary band against the unpruned model.
BAND_ERROR = "band_error"


def look(model: MedSam, shared: Shared) -> dict[str, float]:
    """Measure a model on search images, as many as the settings say.

    Args:
        model: The pruned model, on its device.
        shared: Inputs common to all trials.

    Returns:
        Means of all metrics over all data sets, the objectives, the error in the boundary band (14.4), and the model's
        costs.
    """
    count = min(shared.settings.search.scheduler_images or len(shared.search_images), len(shared.search_images))
    rows = np.linspace(0, len(shared.search_images) - 1, count).round().astype(np.intp)
    images = shared.search_images.subset(rows)
    logits = low_logits(model, images, autocast=shared.settings.recovery.autocast)
    masks = images.low_masks(logits.shape[-1], list(range(count)))
    errors = band_errors(logits, shared.search_logits[rows], masks)
    means = summarise(evaluate_logits(logits, images))
    wanted = names_of(shared.settings.search.objectives)
    overall = {name: value for name, value in means.items() if "/" not in name or name in wanted}
    return {**overall, BAND_ERROR: float(errors.mean()), **shared.costs(model.spec)}
