"""Mean activation of groups, a criterion that needs forward passes only (method §10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medcore.models.flows import flow_of
from medcore.models.sites import Watch
from medcore.models.spec import ModelSpec

#: Number of a site -> (G,), L2 norm of a group's output, mean over tokens and images. Sites without groups do not
#: appear.
Activations = dict[int, Tensor]


@contextmanager
def recording(model: nn.Module, spec: ModelSpec) -> Iterator[Activations]:
    """Record the mean activation of every group in each forward pass.

    Args:
        model: has the widths of `spec`.
        spec: the model's structure.

    Yields:
        A dictionary that every forward pass fills with the means over its batch.
    """
    seen: Activations = {}
    handles = []
    for number, (site, width) in enumerate(zip(spec.arch.sites, spec.widths, strict=True)):
        if width:
            handles.append(_watch(model, site.watch, number, seen))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _watch(model: nn.Module, watch: Watch, number: int, seen: Activations) -> torch.utils.hooks.RemovableHandle:
    module = model.get_submodule(watch.module)
    rest = None if watch.rest is None else model.get_submodule(watch.rest)

    def on_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[number] = _mean_norms(inputs[0].detach().movedim(watch.axis, -1), watch.inner)

    def on_change(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        with torch.no_grad():
            # no hook of that module sees this call
            left = flow_of(inputs if rest is None else rest.forward(inputs[0]))
            changes = [(new - old).movedim(watch.axis, -1) for new, old in zip(flow_of(output), left, strict=True)]
        # tokens and image of a decoder's layer count together
        seen[number] = torch.stack([_mean_norms(change, change.shape[-1]) for change in changes]).sum(dim=0)

    def on_output(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[number] = _mean_norms(output.detach(), output.shape[-1])

    if watch.kind == "change":
        return module.register_forward_hook(on_change)
    if watch.kind == "output":
        return module.register_forward_hook(on_output)
    return module.register_forward_pre_hook(on_input)


def _mean_norms(features: Tensor, inner: int) -> Tensor:
    """Return the mean norm of each group, (…, G·inner) -> (G,)."""
    if inner == 1:
        return features.flatten(0, -2).abs().mean(dim=0)
    # (tokens, G, inner) -> (G,)
    by_group = features.reshape(-1, features.shape[-1] // inner, inner)
    norms: Tensor = torch.linalg.vector_norm(by_group, dim=-1)
    return norms.mean(dim=0)
