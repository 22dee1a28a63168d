"""Removal order and predicted losses of one site's groups, by second-order pruning (method §12).

The groups of a site feed one linear layer with weights W. Removing some of them costs the least if the weights of the
others are solved for again. The Gram matrix of the layer's inputs and the metric of its outputs give that least loss in
closed form, for every group and after every removal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from medcore.errors import DataError

Floats = npt.NDArray[np.float64]

#: λ: share of the inputs' mean variance that is added to every variance (12.3).
RIDGE = 1e-3
#: Down to this number of groups, several are removed at a time.
ONE_BY_ONE = 96
#: Share of the remaining groups that are removed at a time.
STEP = 0.05


@dataclass(frozen=True)
class Removal:
    """The result for one site of G groups.

    Attributes:
        order: int64 (G,), the groups in the order of their removal.
        curve: float64 (G+1,), entry k is the predicted loss of keeping k groups, the last ones of `order`, with the
            weights of the rest solved for again. It never increases with k and ends in 0.
    """

    order: npt.NDArray[np.int64]
    curve: Floats


def remove_all(
    covariance: Floats,
    metric: Floats,
    weight: Floats,
    inner: int = 1,
    *,
    ridge: float = RIDGE,
    one_by_one: int = ONE_BY_ONE,
) -> Removal:
    """Remove all groups of a site, those of the least predicted loss first (12.4, 12.5).

    The loss of every single step is exact for the order that results, also where several groups go at a time: the
    Cholesky factor of their block eliminates them one after another.

    Args:
        covariance: centred covariance of the layer's inputs, (G·inner, G·inner).
        metric: S of the layer's outputs, (C, C), positive semidefinite.
        weight: W, (C, G·inner).
        inner: adjacent input features of one group.
        ridge: λ.
        one_by_one: number of groups from which on they are removed one at a time; before, 5 % of them at a time.

    Raises:
        DataError: a value is not finite.
        ValueError: the shapes do not fit.
    """
    features = weight.shape[1]
    if features % inner or covariance.shape != (features, features) or metric.shape != (len(weight),) * 2:
        shapes = [array.shape for array in (covariance, metric, weight)]
        raise ValueError(f"covariance, metric and weight have shapes {shapes}, groups have {inner} features")
    if not all(np.isfinite(array).all() for array in (covariance, metric, weight)):
        raise DataError("second-order profile: moments or weights are not finite; check the checkpoint")
    groups = features // inner
    if not groups:
        return Removal(np.zeros(0, np.int64), np.zeros(1))
    left = np.arange(groups)
    scaled, inverse = _root(metric) @ weight, _ridge_inverse(covariance, ridge)
    order, losses = [], []
    while len(left):
        errors = _single_losses(scaled, inverse, inner)
        few = np.argsort(errors, kind="stable")[: _step(len(left), one_by_one)]
        removed, kept = few, np.setdiff1d(np.arange(len(left)), few)
        scaled, inverse, step_losses = _remove(scaled, inverse, _features(removed, inner), _features(kept, inner))
        order.append(left[removed])
        losses.append(step_losses.reshape(-1, inner).sum(axis=1))
        left = left[kept]
    # the loss of keeping k is that of the first G − k removals
    curve = np.concatenate([[0.0], np.cumsum(np.concatenate(losses))])[::-1]
    return Removal(np.concatenate(order).astype(np.int64), np.ascontiguousarray(curve))


def _step(left: int, one_by_one: int) -> int:
    """Return how many groups to remove at once."""
    return max(1, min(int(STEP * left), left - one_by_one))


def _features(groups: npt.NDArray[np.intp], inner: int) -> npt.NDArray[np.intp]:
    """Return the input features of groups, in the order of the groups."""
    return (groups[:, None] * inner + np.arange(inner)).reshape(-1)


def _root(metric: Floats) -> Floats:
    """Return R with RᵀR = S, (C, C).

    R differs from S^½ by a rotation, which changes no norm. Negative eigenvalues, which are rounding, become 0.
    """
    values, vectors = np.linalg.eigh((metric + metric.T) / 2)
    root: Floats = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return root


def _ridge_inverse(covariance: Floats, ridge: float) -> Floats:
    """Return P, the inverse of the covariance plus λ times its mean diagonal (12.3).

    Inputs that hardly vary around a large mean have a covariance that rounding makes indefinite. λ then grows tenfold
    until the sum is positive definite.
    """
    symmetric = (covariance + covariance.T) / 2
    mean = float(np.trace(symmetric)) / len(symmetric)
    # inputs that never vary cost nothing to remove; any positive number serves
    added = ridge * mean if mean > 0 else 1.0
    symmetric[np.diag_indices_from(symmetric)] += added
    while True:
        try:
            # LAPACK fills the lower triangle only
            factor = linalg.cholesky(symmetric, lower=True, check_finite=False)
            break
        except linalg.LinAlgError:
            if not np.isfinite(mean + added):
                raise
            more = 9 * added if added else np.finfo(np.float64).eps * mean
            symmetric[np.diag_indices_from(symmetric)] += more
            added += more
    lower = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
    inverse: Floats = np.tril(lower) + np.tril(lower, -1).T
    return inverse


def _single_losses(scaled: Floats, inverse: Floats, inner: int) -> Floats:
    """Return the loss of removing each group alone, tr(W_J·P_JJ⁻¹·W_Jᵀ) (12.4), (G,)."""
    if inner == 1:
        losses: Floats = np.einsum("cf,cf->f", scaled, scaled) / np.diagonal(inverse)
        return losses
    groups = len(inverse) // inner
    at = np.arange(groups)
    # (G, d, G, d) -> the G diagonal blocks (G, d, d)
    blocks = inverse.reshape(groups, inner, groups, inner)[at, :, at, :]
    # (C, G·d) -> (G, d, C)
    columns = scaled.reshape(len(scaled), groups, inner).transpose(1, 2, 0)
    losses = (columns * np.linalg.solve(blocks, columns)).sum(axis=(1, 2))
    return losses


def _remove(
    scaled: Floats, inverse: Floats, removed: npt.NDArray[np.intp], kept: npt.NDArray[np.intp]
) -> tuple[Floats, Floats, Floats]:
    """Remove features and solve for the weights of the rest (12.5).

    With P_JJ = L·Lᵀ, Y = W_J·L⁻ᵀ and Z = L⁻¹·P_J:, the updates are W −= Y·Z and P −= Zᵀ·Z. Column i of Y has the
    squared norm that removing feature i costs after the features before it.

    Returns:
        W and P of the kept features, and the loss of each removed feature, (J,).
    """
    factor = linalg.cholesky(inverse[np.ix_(removed, removed)], lower=True, check_finite=False)
    both = np.concatenate([scaled[:, removed].T, inverse[np.ix_(removed, kept)]], axis=1)
    solved = linalg.solve_triangular(factor, both, lower=True, check_finite=False)
    turned, across = solved[:, : len(scaled)], solved[:, len(scaled) :]
    smaller = inverse[np.ix_(kept, kept)] - across.T @ across
    return scaled[:, kept] - turned.T @ across, smaller, np.square(turned).sum(axis=1)
