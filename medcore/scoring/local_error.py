"""Local output error of groups: how far a layer's output moves if one group of its input is masked (PSP-Seg)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.devices import device_of
from medcore.models.flows import flow_of
from medcore.models.linear_map import linear_map
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite, Site


@torch.no_grad()
def local_errors(model: MedSam, images: ImageSet, indices: Sequence[int]) -> PerSite:
    """Return ‖y − y_masked‖ of every group, with y the output of the layer that the group feeds (6.11).

    The inputs of all layers are those of the model as it is, so one forward pass of an image serves all groups. The
    norm is over all entries of y and all images. For a whole block or layer, y − y_masked is what it changes, and for a
    whole output of the decoder it is the output. The prompts are exact boxes.

    Args:
        model: dense or pruned.
        images: the images.
        indices: which of them to look at.

    Returns:
        One value per group, in the model's widths.
    """
    device = device_of(model)
    squares = [torch.zeros(width, dtype=torch.float64, device=device) for width in model.spec.widths]
    handles = []
    for site, total in zip(model.arch.sites, squares, strict=True):
        if len(total):
            handles.append(_watch(model, site, total))
    try:
        for index in indices:
            model.segment(images.tensor([index]).to(device), images.box_tensor([index]).to(device))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(np.sqrt(total.cpu().numpy()) for total in squares)


def _watch(model: MedSam, site: Site, total: Tensor) -> torch.utils.hooks.RemovableHandle:
    """Add the squared errors of each forward pass to `total`, (G,)."""
    module: nn.Module = model.get_submodule(site.watch.module)
    rest = None if site.watch.rest is None else model.get_submodule(site.watch.rest)

    def changed(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        left = flow_of(inputs if rest is None else rest.forward(inputs[0]))
        for new, old in zip(flow_of(output), left, strict=True):
            total.add_((new - old).double().square().sum())

    def given(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        total.add_(output.double().square().sum())

    def fed(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        total.add_(errors(inputs[0]))

    if site.watch.kind == "change":
        return module.register_forward_hook(changed)
    if site.watch.kind == "output":
        return module.register_forward_hook(given)
    if site.output is None:
        errors = _by_masking(module, site)
    else:
        errors = _by_map(model.get_submodule(site.output.module), site)
    return module.register_forward_pre_hook(fed)


def _by_map(module: nn.Module, site: Site) -> Callable[[Tensor], Tensor]:
    """Return the squared errors (G,) of a linear layer: tr(W_g · Σ a_g·a_gᵀ · W_gᵀ)."""
    weight, inner = linear_map(module)[0].double(), site.watch.inner
    # (C, G·d) -> (G, d, C)
    maps = weight.reshape(len(weight), -1, inner).permute(1, 2, 0)

    def errors(features: Tensor) -> Tensor:
        tokens = features.movedim(site.watch.axis, -1).flatten(0, -2).double()
        # (tokens, G·d) -> (G, tokens, d)
        groups = tokens.reshape(len(tokens), -1, inner).movedim(1, 0)
        squared: Tensor = ((groups.transpose(1, 2) @ groups @ maps) * maps).sum(dim=(1, 2))
        return squared

    return errors


def _by_masking(module: nn.Module, site: Site) -> Callable[[Tensor], Tensor]:
    """Return the squared errors (G,) of any layer, group by group."""
    inner, axis = site.watch.inner, site.watch.axis

    def errors(features: Tensor) -> Tensor:
        whole, found = module.forward(features), []
        for start in range(0, features.shape[axis], inner):
            masked = features.clone()
            masked.narrow(axis, start, inner).zero_()
            found.append((whole - module.forward(masked)).double().square().sum())
        return torch.stack(found)

    return errors
