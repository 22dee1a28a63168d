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
from medcore.errors import DataError
from medcore.losses import boundary_band, score_loss_parts
from medcore.models.groups import gate_gradients
from medcore.models.sam import MedSam
from medcore.scoring.activations import Activations, recording
from medcore.scoring.sums import CalibrationSums

#: Called with (images done, images in all).
Progress = Callable[[int, int], None]


def calibration_sums(
    model: MedSam,
    images: ImageSet,
    indices: Sequence[int],
    nodes: Sequence[float] = (0.0,),
    progress: Progress | None = None,
) -> CalibrationSums:
    """Sum squared per-image gradients of the scoring loss over images (3.3, 3.4).

    The prompts are the exact boxes. Pruned models work too. The model's mode, `requires_grad` and `grad` are unchanged.

    Args:
        model: the model to score.
        images: images with masks and boxes.
        indices: which of the images to use.
        nodes: boundary weights at which the gate gradients are taken; Fisher terms hold for every weight.
        progress: called after each image.

    Returns:
        The sums over the images whose gradients are finite.

    Raises:
        MedcoreError: no image is given.
    """
    if len(indices) == 0:
        raise DataError("scoring: no calibration image; check the data folder, its split and the image count")
    collector = _Collector(model, nodes)
    masks = torch.from_numpy(images.low_masks(model.arch.low_res, list(indices)))
    with _gradients_for(model, collector.tensors), recording(model, model.spec) as activations:
        for done, (index, mask) in enumerate(zip(indices, masks, strict=True)):
            gradients = _gradients(model, images, index, mask, collector.tensors)
            collector.add(images.names[index], *gradients, activations)
            if progress is not None:
                progress(done + 1, len(indices))
    return collector.sums


def _gradients(
    model: MedSam, images: ImageSet, index: int, mask: Tensor, parameters: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients of the region and the boundary part of one image's loss.

    One forward pass serves both.
    """
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
    """Put the model in evaluation mode with gradients for `parameters` alone.

    Everything is restored afterwards.
    """
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
    """Add the gradients of one image after another to `sums`."""

    def __init__(self, model: MedSam, nodes: Sequence[float]) -> None:
        self.sums = CalibrationSums.zeros(model, nodes)
        self._nodes = torch.tensor(list(nodes), dtype=torch.float64)
        self._spec = model.spec
        #: (block, name inside the block) of every tensor
        self._places: list[tuple[int, str]] = []
        self.tensors: list[Tensor] = []
        for number, block in enumerate(model.arch.blocks):
            for name, parameter in model.get_submodule(block.path).named_parameters():
                self._places.append((number, name))
                self.tensors.append(parameter)
        blocks = model.arch.blocks
        self._names = [f"{blocks[number].path}.{name}" for number, name in self._places]

    @torch.no_grad()
    def add(self, name: str, region: list[Tensor], boundary: list[Tensor], seen: Activations) -> None:
        """Add one image's gradients and activations.

        An image with a gradient that is not finite is left out and its name noted.
        """
        # the squares must be finite, not only the gradients; one synchronisation with the device for all
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in region + boundary])
        if not bool(norms.square().isfinite().all()):
            self.sums.skipped.append(name)
            return
        self.sums.used += 1
        for (block, inside), first, second in zip(self._places, region, boundary, strict=True):
            if (total := self.sums.parameters[block].get(inside)) is not None:
                total[0].addcmul_(first, first)
                total[1].addcmul_(first, second)
                total[2].addcmul_(second, second)
            else:
                self.sums.others[block] += (
                    torch.stack([(first * first).sum(), (first * second).sum(), (second * second).sum()]).double().cpu()
                )
        self._add_gates(region, boundary)
        for number, values in seen.items():
            self.sums.active[number] += values.double().cpu()

    def _add_gates(self, region: list[Tensor], boundary: list[Tensor]) -> None:
        """Add |∂loss(w)/∂gate| of a gate on each group's output, at every node w."""
        weights = dict(zip(self._names, self.tensors, strict=True))
        gradients = [dict(zip(self._names, values, strict=True)) for values in (region, boundary)]
        for site, width, total in zip(self._spec.arch.sites, self._spec.widths, self.sums.gates, strict=True):
            if width:
                first, second = (gate_gradients(site, width, weights, values).cpu() for values in gradients)
                # (W, G)
                total += (first + self._nodes[:, None] * second).abs()
