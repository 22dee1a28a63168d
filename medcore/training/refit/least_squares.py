"""Moments of a linear layer's features and targets, and the layer that fits them best (11.1 to 11.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcore.shrinkage import ridge_for

#: Least squared pivot of a solve, as a share of the mean variance of the features. Below it the rounding of float32
#: products decides.
LEAST_PIVOT = 1e-6


@dataclass(frozen=True)
class Origin:
    """Points that are subtracted before sums are taken, so that float32 products lose no digits to a large mean.

    Attributes:
        features: (K,), float32.
        targets: (C,), float32.
    """

    features: Tensor
    targets: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: Tensor) -> Origin:
        """Return the means of some tokens; features (T, K), targets (T, C)."""
        return cls(features.mean(dim=0), targets.mean(dim=0))


@dataclass(frozen=True)
class Sums:
    """Sums over tokens, relative to an origin. All tensors are float64.

    Attributes:
        count: number of tokens.
        features: (K,), sum of features.
        targets: (C,), sum of targets.
        gram: (K, K), sum of products of features.
        cross: (K, C), sum of products of features and targets.
        square: (), sum of squared targets.
    """

    count: int
    features: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor
    square: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, origin: Origin) -> Sums:
        """Return the sums over some tokens.

        Args:
            features: (T, K), float32.
            targets: (T, C), float32.
            origin: what is subtracted.
        """
        a, t = features - origin.features, targets - origin.targets
        return cls(
            len(a),
            a.sum(dim=0, dtype=torch.float64),
            t.sum(dim=0, dtype=torch.float64),
            (a.T @ a).double(),
            (a.T @ t).double(),
            t.square().sum(dtype=torch.float64),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            self.features + other.features,
            self.targets + other.targets,
            self.gram + other.gram,
            self.cross + other.cross,
            self.square + other.square,
        )


@dataclass(frozen=True)
class Moments:
    """Means and covariances of features A and targets T. All tensors are float64.

    Attributes:
        features: (K,), mean of A.
        targets: (C,), mean of T.
        gram: (K, K), covariance of A.
        cross: (K, C), covariance of A and T.
        spread: (), variance of T, summed over its entries.
        count: number of tokens.
    """

    features: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor
    spread: Tensor
    count: int

    @classmethod
    def of(cls, sums: Sums, origin: Origin) -> Moments:
        """Return the moments that belong to sums over at least one token."""
        a, t = sums.features / sums.count, sums.targets / sums.count
        return cls(
            features=origin.features + a,
            targets=origin.targets + t,
            gram=sums.gram / sums.count - a[:, None] * a,
            cross=sums.cross / sums.count - a[:, None] * t,
            spread=sums.square / sums.count - t.square().sum(),
            count=sums.count,
        )

    @property
    def finite(self) -> bool:
        """Return whether no entry is NaN or infinite."""
        tensors = (self.features, self.targets, self.gram, self.cross, self.spread)
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def about_zero(self) -> Moments:
        """Return the moments about 0 instead of the means, for a layer without a bias: the best bias is then 0."""
        a, t = self.features, self.targets
        return Moments(
            features=torch.zeros_like(a),
            targets=torch.zeros_like(t),
            gram=self.gram + a[:, None] * a,
            cross=self.cross + a[:, None] * t,
            spread=self.spread + t.square().sum(),
            count=self.count,
        )

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Return the mean over tokens of |T − weight·A − bias|² (11.4).

        Args:
            weight: (C, K), float64.
            bias: (C,), float64.
        """
        offset = self.targets - weight @ self.features - bias
        explained = 2 * (weight.T * self.cross).sum() - ((weight @ self.gram) * weight).sum()
        return max(0.0, float(self.spread - explained + offset.square().sum()))

    def bias(self, weight: Tensor) -> Tensor:
        """Return the best bias for a weight (C, K), which is (C,) (11.3)."""
        return self.targets - weight @ self.features

    def solve(self, start: Tensor, ridge: float) -> Tensor | None:
        """Return the weight that fits best and stays close to another one (11.2).

        Args:
            start: W0, (C, K), float64.
            ridge: λ, cost of the distance to `start` in units of the features' mean variance; more if tokens are few.

        Returns:
            (C, K); None if the features are linearly dependent and λ does not make up for it.
        """
        scale = self.gram.diagonal().mean()
        damped = self.gram + ridge_for(self.gram, self.count, ridge) * scale * torch.eye(
            len(self.gram), dtype=torch.float64, device=self.gram.device
        )
        factor, failed = torch.linalg.cholesky_ex(damped)
        pivots = factor.diagonal().square()
        if bool(failed) or not bool((pivots > LEAST_PIVOT * scale).all()):
            return None
        weight: Tensor = start + torch.cholesky_solve(self.cross - self.gram @ start.T, factor).T
        return weight if bool(weight.isfinite().all()) else None
