"""Local output errors against masking group by group, layer by layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medcore.models.sam import MedSam
from medcore.scoring.local_error import local_errors
from tests.support.decoders import BOTH, model_with_decoder
from tests.support.toy.samples import toy_model
from tests.support.training_samples import random_images, tiny_model


def by_masking(model: MedSam, images, indices: list[int]) -> list[np.ndarray]:
    """Run each layer again with each group of its cached input masked, or the input itself for a whole block."""
    cached: dict[str, tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]] = {}
    handles = []
    for name in {site.watch.module for site in model.arch.sites}:

        def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any, name: str = name) -> None:
            outputs = (output,) if isinstance(output, torch.Tensor) else tuple(output)
            cached[name] = tuple(map(torch.clone, inputs)), tuple(map(torch.clone, outputs))

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        model.segment(images.tensor(indices), images.box_tensor(indices))
        for handle in handles:
            handle.remove()
        found = []
        for site, width in zip(model.arch.sites, model.spec.widths, strict=True):
            if site.watch.module not in cached:  # outputs of the decoder that the first mask does not need
                found.append(np.zeros(width))
                continue
            layer = copy.deepcopy(model.get_submodule(site.watch.module))
            errors = []
            for group in range(width):
                inputs_of, outputs = cached[site.watch.module]
                if site.watch.kind == "change":
                    masked = inputs_of
                elif site.watch.kind == "output":
                    masked = tuple(map(torch.zeros_like, outputs))
                else:
                    shape = inputs_of[0].movedim(site.watch.axis, -1).clone()
                    shape[..., group * site.watch.inner : (group + 1) * site.watch.inner] = 0
                    masked = (layer(shape.movedim(-1, site.watch.axis)),)
                squares = [(one - other).square().sum().item() for one, other in zip(outputs, masked, strict=False)]
                errors.append(sum(squares) ** 0.5)
            found.append(np.array(errors))
    return found


@pytest.mark.parametrize("kind", ["vit", "pruned vit", "toy", "decoder"])
def test_errors_are_those_of_masking(kind: str) -> None:
    images = random_images(3)
    if kind == "decoder":
        model = model_with_decoder(8, BOTH)
    else:
        model = toy_model() if kind == "toy" else tiny_model(heads=(0, 1, 3, 2) if kind == "pruned vit" else None)
    errors = local_errors(model, images, [0, 2])
    assert tuple(map(len, errors)) == model.spec.widths
    for values, expected in zip(errors, by_masking(model, images, [0, 2]), strict=True):
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
