"""Sums over groups and entries of groups, for any site (method §2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medcore.models.sites import Site, TensorSlice


def group_sums(site: Site, width: int, values: Mapping[str, Tensor]) -> Tensor:
    """Sum a per-parameter quantity over each group of a site.

    Args:
        site: the site.
        width: G, groups that it has now.
        values: the quantity by the parameter's name in the model. Tensors that are no parameters are left out.

    Returns:
        (G,), on the device of `values`.
    """
    sums = [slice_sums(part, width, values[part.name]) for part in site.tensors if part.name in values]
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    return total


def gate_gradients(site: Site, width: int, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
    """Return ∂loss/∂gate of a gate on each group's output.

    The gate scales the slices that carry the output, so its gradient is the sum of weight times gradient over them.

    Args:
        site: the site.
        width: G, groups that it has now.
        weights: parameters of the model by name.
        gradients: gradients of the loss by name.

    Returns:
        (G,) float64, on the device of `weights`.
    """
    parts = [part for part in site.tensors if part.output and part.name in weights]
    products = ((weights[part.name] * gradients[part.name]).double() for part in parts)
    # over all other axes first, then within groups
    sums = [_arranged(part, width, values).sum(dim=0).sum(dim=1) for part, values in zip(parts, products, strict=True)]
    return torch.stack(sums).sum(dim=0)


def slice_sums(part: TensorSlice, width: int, values: Tensor) -> Tensor:
    """Sum the entries of one tensor over each group.

    Args:
        part: how groups lie in the tensor.
        width: G, groups that the tensor has now.
        values: of the tensor's shape.

    Returns:
        (G,).
    """
    if width == 0:
        return values.new_zeros(0)
    return _arranged(part, width, values).sum(dim=(0, 2))


def _arranged(part: TensorSlice, width: int, values: Tensor) -> Tensor:
    """Reshape to (everything before, G, everything within a group and after)."""
    if part.axis is None:
        return values.reshape(1, 1, values.numel())
    before, after = values.shape[: part.axis].numel(), values.shape[part.axis + 1 :].numel()
    # nothing inferred, because another site may have left another axis without entries
    return values.reshape(before * part.outer, width, values.shape[part.axis] // (part.outer * width) * after)


def kept_entries(part: TensorSlice, keep: Tensor) -> Tensor:
    """Mark the entries of the tensor's axis that belong to kept groups.

    Args:
        part: how groups lie in the tensor; its axis must not be None.
        keep: bool (G,).

    Returns:
        bool (outer·G·inner,).
    """
    return keep.repeat_interleave(part.inner).repeat(part.outer)
