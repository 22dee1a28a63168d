"""A sampler that halves the widest gap between the shares of the cost tried so far (method §14)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

#: Parameter of a trial that holds its share of the cost.
SHARE = "fraction"
#: Shares that differ by less than this part of the range count as one.
_SAME = 1e-6


def next_share(tried: Iterable[float], low: float, high: float, log: bool = False) -> float:
    """Return an end of the range that nobody has tried, or else the middle of its widest gap (14.5).

    Of gaps that are equally wide the cheapest comes first.

    Args:
        tried: Shares of earlier trials; those outside of the range do not count.
        low: Smallest share.
        high: Largest share.
        log: Whether widths and middles are those of the logarithm.
    """
    if not low < high:
        return high
    known = np.array([low, high, *(share for share in tried if low <= share <= high)], dtype=float)
    scaled = np.log(known) if log else known
    places = (scaled - scaled[0]) / (scaled[1] - scaled[0])
    for end, share in ((0.0, low), (1.0, high)):
        if not (abs(places[2:] - end) < _SAME).any():
            return share
    edges = np.sort(places)
    gaps = np.diff(edges)
    # gaps that differ by rounding only are equally wide
    widest = int(np.flatnonzero(gaps > gaps.max() - _SAME)[0])
    middle = scaled[0] + (edges[widest] + edges[widest + 1]) / 2 * (scaled[1] - scaled[0])
    return float(min(max(np.exp(middle) if log else middle, low), high))


class GapSampler(TPESampler):
    """Halves gaps between shares of the cost; TPE draws all other parameters, without regard to the share.

    Trials that run, have failed or were stopped have tried their share too. A share that is not a range is TPE's.
    """

    def __init__(self, least: float = 0.0, **options: Any) -> None:
        """Create a sampler.

        Args:
            least: Smallest share that a budget can meet. Smaller ones would give the same model again.
            options: Those of TPE.
        """
        super().__init__(**options)
        self._least = least

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what TPE draws together."""
        space = super().infer_relative_search_space(study, trial)
        return {name: each for name, each in space.items() if name != SHARE or not isinstance(each, FloatDistribution)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the share of the cost, or what TPE draws for another parameter by itself."""
        if param_name != SHARE or not isinstance(param_distribution, FloatDistribution):
            return super().sample_independent(study, trial, param_name, param_distribution)
        low, high = param_distribution.low, param_distribution.high
        tried = [each.params[SHARE] for each in study.get_trials(deepcopy=False) if SHARE in each.params]
        return next_share(tried, min(max(low, self._least), high), high, param_distribution.log)
