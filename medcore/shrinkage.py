"""How far covariances of few samples are to be trusted: a ridge that grows as samples get fewer (method §11, §12)."""

from __future__ import annotations

from typing import Any

#: Samples for each feature from which a covariance needs no more than the given ridge.
ENOUGH = 4
#: Largest share of a covariance that is replaced.
_MOST = 0.5


def ridge_for(covariance: Any, samples: int, ridge: float) -> float:
    """Return the share of the mean variance to add to every variance.

    It is `ridge` where there are at least `ENOUGH` samples for each feature. With fewer, features look dependent that
    are not, so that any of them seems free to remove. Then it is at least the ridge that the oracle approximating
    shrinkage of Chen et al. (2010) amounts to (11.6).

    Args:
        covariance: (F, F) of the samples, a NumPy array or a tensor.
        samples: n, number of samples.
        ridge: λ, the least share; 0 stays 0.
    """
    features = len(covariance)
    if samples >= ENOUGH * features or not ridge:
        return ridge
    squares, trace = float((covariance * covariance).sum()), float(covariance.trace())
    spread = (samples + 1) * (squares - trace**2 / features)
    # equal, uncorrelated variances need no shrinkage to become so
    share = min(_MOST, (squares + trace**2) / spread) if spread > 0 else 0.0
    return max(ridge, share / (1 - share))
