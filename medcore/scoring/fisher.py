"""Boundary-aware Fisher information of the encoder's blocks, for every boundary weight at once (method §3).

The loss is affine in the boundary weight w, so its gradient is g_r + w·g_b and, with means over images,
F(w) = A + 2w·B + w²·C, A = E[g_r²], B = E[g_r·g_b], C = E[g_b²]. Two backward passes an image give all three. The same
passes give what the baseline criteria need: gradients of gates on groups, and activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.losses import boundary_band, score_loss_parts
from medcore.models.sam import MedSam
from medcore.scoring.activations import Activations, recording
from medcore.scoring.sums import GROUPED, CalibrationSums

#: Called with (images done, images in all).
Progress = Callable[[int, int], None]


def calibration_sums(
    model: MedSam,
    images: ImageSet,
    indices: Sequence[int],
    nodes: Sequence[float] = (0.0,),
    progress: Progress | None = None,
) -> CalibrationSums:
    """Sums over images of the squared per-image gradients of the scoring loss, with the exact box as prompt.

    Works on pruned models too. The model is left as it was (mode, `requires_grad`, `grad`).

    Args:
        nodes: boundary weights at which the gate gradients are taken; Fisher terms hold for every weight.

    Raises:
        MedcoreError: no image is given.
    """
    if len(indices) == 0:
        raise MedcoreError("scoring: no calibration image; check the data folder, its split and the image count")
    collector = _Collector(model, nodes)
    masks = torch.from_numpy(images.low_masks(model.arch.low_res, list(indices)))
    with _gradients_for(model, collector.tensors), recording(model.image_encoder, model.spec) as activations:
        for done, (index, mask) in enumerate(zip(indices, masks, strict=True)):
            gradients = _gradients(model, images, index, mask, collector.tensors)
            collector.add(images.names[index], *gradients, activations)
            if progress is not None:
                progress(done + 1, len(indices))
    return collector.sums


def _gradients(
    model: MedSam, images: ImageSet, index: int, mask: Tensor, parameters: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the region and the boundary part of one image's loss; one forward pass serves both."""
    like = parameters[0]
    target = mask[None, None].to(like)
    boxes = torch.as_tensor(images.boxes[[index]]).to(like)
    logits = model.segment(images.tensor([index]).to(like), boxes)
    region, boundary = score_loss_parts(logits, target, boundary_band(target))
    first = torch.autograd.grad(region, parameters, retain_graph=True, materialize_grads=True)
    second = torch.autograd.grad(boundary, parameters, materialize_grads=True)
    return list(first), list(second)


@contextmanager
def _gradients_for(model: nn.Module, parameters: list[Tensor]) -> Iterator[None]:
    """Evaluation mode, gradients for `parameters` alone; everything is restored afterwards."""
    training = model.training
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
        model.train(training)


class _Collector:
    """Adds one image after another to `sums`."""

    def __init__(self, model: MedSam, nodes: Sequence[float]) -> None:
        self.sums = CalibrationSums.zeros(model, nodes)
        self._nodes = torch.tensor(list(nodes), dtype=torch.float64)
        self._spec = model.spec
        #: (block, name inside the block) of every tensor
        self._places: list[tuple[int, str]] = []
        self.tensors: list[Tensor] = []
        for number in range(model.arch.depth):
            for name, parameter in model.image_encoder.get_submodule(f"blocks.{number}").named_parameters():
                self._places.append((number, name))
                self.tensors.append(parameter)

    @torch.no_grad()
    def add(self, name: str, region: list[Tensor], boundary: list[Tensor], seen: Activations) -> None:
        """Add one image's gradients and activations; one with a gradient that is not finite is left out and named."""
        # the squares must be finite, not only the gradients; one synchronisation with the device for all
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in region + boundary])
        if not bool(norms.square().isfinite().all()):
            self.sums.skipped.append(name)
            return
        self.sums.used += 1
        for (block, inside), tensor, first, second in zip(self._places, self.tensors, region, boundary, strict=True):
            if inside.startswith(GROUPED):
                total = self.sums.parameters[block][inside]
                total[0].addcmul_(first, first)
                total[1].addcmul_(first, second)
                total[2].addcmul_(second, second)
            else:
                self.sums.others[block] += (
                    torch.stack([(first * first).sum(), (first * second).sum(), (second * second).sum()]).double().cpu()
                )
            if inside == "attn.proj.weight":
                self._add_gates(self.sums.gate_heads[block], tensor, first, second, self._spec.heads[block])
            elif inside == "mlp.lin2.weight":
                self._add_gates(self.sums.gate_channels[block], tensor, first, second, self._spec.channels[block])
        for block, values in seen.heads.items():
            self.sums.active_heads[block] += values.double().cpu()
        for block, values in seen.channels.items():
            self.sums.active_channels[block] += values.double().cpu()

    def _add_gates(self, total: Tensor, weight: Tensor, first: Tensor, second: Tensor, groups: int) -> None:
        """|∂loss(w)/∂gate| of a gate on each group's output: its columns of the projection times their gradient."""
        if groups == 0:
            return
        # (C, G·d) -> (G, d) -> (G,)
        gate_region, gate_boundary = (
            (weight * gradient).double().sum(dim=0).reshape(groups, -1).sum(dim=1).cpu() for gradient in (first, second)
        )
        # (W, G)
        total += (gate_region + self._nodes[:, None] * gate_boundary).abs()
