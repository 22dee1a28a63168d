"""Layers as linear maps of the features of one token: what a refit can solve for (method §11).

A convolution maps the patch around a token, (C, kernel, kernel) in one row.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class LinearMap(Protocol):
    """A layer that is a linear map of its last input features, but holds it in other tensors."""

    def linear_map(self) -> tuple[Tensor, Tensor]:
        """Return weight (C, K) and bias (C,)."""

    def set_linear_map(self, weight: Tensor, bias: Tensor) -> None:
        """Take another weight and bias, in place."""


def is_linear_map(layer: nn.Module) -> bool:
    """Return whether the functions of this file take a layer: linear, or a convolution with one output a token."""
    if isinstance(layer, nn.Conv2d):
        in_place = all(2 * pad + 1 == side for pad, side in zip(_padding(layer), layer.kernel_size, strict=True))
        plain = (layer.stride, layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
        return in_place and plain
    return isinstance(layer, LinearMap | nn.Linear)


def has_bias(layer: nn.Module) -> bool:
    """Return whether a layer adds a bias."""
    return isinstance(layer, LinearMap) or getattr(layer, "bias", None) is not None


def is_pointwise(layer: nn.Module) -> bool:
    """Return whether each token of a layer's output depends on one token of its input."""
    return not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1)


def linear_map(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight (C, K) and bias (C,) of a layer; zeros for a bias that it does not have."""
    if isinstance(layer, LinearMap):
        return layer.linear_map()
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.flatten(1)
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias


@torch.no_grad()
def set_linear_map(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Give a layer another weight and bias, in place. The bias of a layer without one is left out."""
    if isinstance(layer, LinearMap):
        layer.set_linear_map(weight, bias)
        return
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    layer.weight.copy_(weight.view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(bias)


def features_of(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a layer maps to each token of its output.

    Args:
        layer: the layer.
        inputs: its input, (B, …, K), or (B, C, h, w) of a convolution.

    Returns:
        The input itself, or the patches (B, h, w, C·kernel²) of a convolution.
    """
    if is_pointwise(layer):
        return tokens_of(layer, inputs)
    assert isinstance(layer, nn.Conv2d)
    patches = F.unfold(inputs, layer.kernel_size, padding=_padding(layer))
    rows, columns = inputs.shape[2:]
    return patches.transpose(1, 2).reshape(len(inputs), rows, columns, -1)


def tokens_of(layer: nn.Module, output: Tensor) -> Tensor:
    """Return the output of a layer with features last: (B, …, C), also of a convolution's (B, C, h, w)."""
    return output.permute(0, 2, 3, 1) if isinstance(layer, nn.Conv2d) else output


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    """Return the padding in pixels; of one given by name that none can stand for."""
    if isinstance(layer.padding, str):
        return (-1, -1)
    rows, columns = layer.padding
    return rows, columns
