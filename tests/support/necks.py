"""Least squares for the convolutions of a neck, in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def refit_neck(neck: Any, dense: Any, tokens: Tensor, dense_tokens: Tensor, ridge: float) -> list[tuple[float, float]]:
    """Refit a neck of convolutions and normalisations in place, and return the errors before and after.

    Args:
        neck: of the cut model.
        dense: of the unpruned model.
        tokens: what enters the first, (B, h, w, C).
        dense_tokens: what enters the second.
        ridge: λ of (11.2).
    """
    x, y = (each.permute(0, 3, 1, 2) for each in (tokens, dense_tokens))
    errors = []
    for mine, theirs in zip(neck, dense, strict=True):
        y = theirs(y)
        if isinstance(mine, nn.Conv2d):
            errors.append(refit_conv(mine, x, y, ridge))
        x = mine(x)
    return errors


@torch.no_grad()
def refit_conv(layer: nn.Conv2d, maps: Tensor, target: Tensor, ridge: float) -> tuple[float, float]:
    """Refit a convolution in place, and return the errors before and after.

    Args:
        layer: of odd sides, with or without a bias.
        maps: its input, (B, C, h, w).
        target: what it should return, (B, D, h, w).
        ridge: λ of (11.2).
    """
    side = layer.kernel_size[0]
    padded = np.pad(maps.double().numpy(), ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
    # (B, C, h, w, side, side) -> a row of (C, side, side) for each pixel
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    a = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, maps.shape[1] * side * side)
    t = target.permute(0, 2, 3, 1).reshape(len(a), -1).double().numpy()
    w0 = layer.weight.double().numpy().reshape(t.shape[1], -1)
    b0 = np.zeros(len(w0)) if layer.bias is None else layer.bias.double().numpy()
    a_mean, t_mean = (np.zeros(each.shape[1]) if layer.bias is None else each.mean(axis=0) for each in (a, t))
    a_c, t_c = a - a_mean, t - t_mean
    mean_square = np.square(a_c).mean()
    damping = math.sqrt(max(ridge, _shrinkage(a_c)) * len(a) * mean_square)
    rows = np.concatenate([a_c, damping * np.eye(a.shape[1])])
    rest = np.concatenate([t_c - a_c @ w0.T, np.zeros((a.shape[1], t.shape[1]))])
    w = w0 + np.linalg.lstsq(rows, rest, rcond=None)[0].T
    b = t_mean - w @ a_mean
    layer.weight.copy_(torch.from_numpy(w.reshape(layer.weight.shape)))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(b))
    before, after = (np.square(t - a @ v.T - c).sum(axis=1).mean() for v, c in ((w0, b0), (w, b)))
    variance = t.var(axis=0).sum()
    return before / variance, after / variance


def _shrinkage(a: Any) -> float:
    """Return the ridge of (11.6), which holds where tokens are few for the features."""
    (n, f), moments = a.shape, a.T @ a / len(a)
    if n >= 4 * f:
        return 0.0
    trace, square = float(np.trace(moments)), float(np.square(moments).sum())
    rho = min(0.5, (square + trace**2) / ((n + 1) * (square - trace**2 / f)))
    return rho / (1 - rho)
