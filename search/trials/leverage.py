"""Boundary leverage (method §8) that scores predict for a budget."""

from __future__ import annotations

import numpy as np

from medcore.models.cost import cost
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import low_logits
from medcore.quality.leverage import schedule_leverage
from medcore.training.refit.dense_streams import even_places
from search.base.device import best_device
from search.study.inputs import Shared, adapted_model


def predicted_leverage(shared: Shared, scores: PerSite, spec: ModelSpec) -> dict[str, float]:
    """Return the leverage of cutting to `spec` in one go, before recovery.

    The result is empty if leverage is switched off.

    Leverage is measured on some recovery images. The logits before the cut are the teacher's, so this costs one short
    evaluation of the pruned model.

    Args:
        shared: Inputs common to all trials.
        scores: What ranks the groups.
        spec: The budget.
    """
    count = min(shared.settings.search.leverage_images, len(shared.recovery_images))
    if count == 0:
        return {}
    rows = even_places(len(shared.recovery_images), count)
    images = shared.recovery_images.subset(rows)
    model = prune(adapted_model(shared.settings.model), select(scores, spec)).to(best_device())
    logits = low_logits(model, images, autocast=shared.settings.recovery.autocast)
    dense, before = cost(ModelSpec.dense(shared.arch)).encoder_params, cost(shared.start_spec).encoder_params
    removed = 100 * (before - cost(spec).encoder_params) / dense
    before_cut = shared.teacher.logits[rows, 0].astype(np.float32)
    return schedule_leverage(before_cut, logits, images.masks, removed, inner=images.inner)
