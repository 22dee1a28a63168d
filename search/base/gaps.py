"""A sampler that halves the widest gap between the shares of the cost tried so far (method §14)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

#: Parameter of a trial that holds its share of the cost.
SHARE = "fraction"
#: Parameter of a trial that holds the side of its square.
SIDE = "side"
#: User attribute of an Optuna trial whose parameters do not describe its budget, such as that of a uniform budget.
UNDESCRIBED = "undescribed"
#: Shares that differ by less than this part of the range count as one.
_SAME = 1e-6


def next_share(tried: Iterable[float], low: float, high: float, log: bool = False) -> float:
    """Return an end of the range that no trial has had, or else the middle of its widest gap (14.5).

    Of gaps that are equally wide the cheapest comes first.

    Args:
        tried: Shares of earlier trials. Those outside of the range do not count.
        low: Smallest share.
        high: Largest share.
        log: Whether widths and middles are those of the logarithm.
    """
    if not low < high:
        return high
    start, end = np.log([low, high]) if log else (low, high)
    shares = np.array(list(tried), dtype=float)
    places = ((np.log(shares) if log else shares) - start) / (end - start)
    edges = np.sort(places[(places > -_SAME) & (places < 1 + _SAME)])
    if not len(edges) or edges[0] > _SAME:
        return low
    if edges[-1] < 1 - _SAME:
        return high
    gaps = np.diff(edges)
    # gaps that differ by rounding only are equally wide
    widest = int(np.flatnonzero(gaps > gaps.max() - _SAME)[0])
    middle = start + edges[widest : widest + 2].mean() * (end - start)
    return float(np.exp(middle) if log else middle)


class GapSampler(TPESampler):
    """Halves gaps between shares of the cost; TPE draws all other parameters, without regard to the share.

    Trials that run, have failed or were stopped have tried their share too. A share that is not a range is TPE's. A
    side at which a budget cannot meet the share is replaced by the smallest at which one can.
    """

    def __init__(
        self,
        reach: tuple[float, float] = (0.0, 1.0),
        sides: Mapping[int, tuple[float, float]] | None = None,
        **options: Any,
    ) -> None:
        """Create a sampler.

        Args:
            reach: Smallest share that a budget can meet, and the share of the model to prune. Smaller ones would give
                the same model again, and a trial at the other end would remove nothing.
            sides: If trials choose their side, what `reach` is at each, in shares of the same cost.
            options: Those of TPE.
        """
        super().__init__(**options)
        self._least, self._start = reach
        self._sides = dict(sides or {})
        self._least = min([self._least, *(least for least, _ in self._sides.values())])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what TPE draws together."""
        space = super().infer_relative_search_space(study, trial)
        return {name: each for name, each in space.items() if not _is_share(each, name) and name != SIDE}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the share of the cost, or what TPE draws for another parameter by itself."""
        if not _is_share(param_distribution, param_name):
            drawn = super().sample_independent(study, trial, param_name, param_distribution)
            return self._fitting(drawn, trial.params.get(SHARE)) if param_name == SIDE else drawn
        low, high = param_distribution.low, param_distribution.high
        described = [each for each in study.get_trials(deepcopy=False) if UNDESCRIBED not in each.user_attrs]
        tried = [self._met(each.params) for each in described if SHARE in each.params]
        low = min(max(low, self._least), high)
        return next_share([*tried, self._start], low, high, param_distribution.log)

    def _fitting(self, side: int, share: float | None) -> int:
        """Return a side, or the smallest at which a budget can meet a share; None is a share that fits all."""
        ranges = self._sides.items()
        fit = [each for each, (least, most) in ranges if share is None or least <= share < most]
        return side if side in fit or not fit else min(fit)

    def _met(self, params: Mapping[str, Any]) -> float:
        """Return the share of the cost that a trial has met."""
        least, most = self._sides.get(params.get(SIDE, 0), (0.0, 1.0))
        return min(max(float(params[SHARE]), least), most)


def _is_share(distribution: BaseDistribution, name: str) -> TypeGuard[FloatDistribution]:
    return name == SHARE and isinstance(distribution, FloatDistribution)
