"""Boundary-aware Fisher information of the model's blocks, for every boundary weight at once (method §3).

The loss is affine in the boundary weight w, so its gradient is g_r + w·g_b and, with means over images,
F(w) = A + 2w·B + w²·C, A = E[g_r²], B = E[g_r·g_b], C = E[g_b²]. Two backward passes an image give all three. Where one
weight is wanted, one backward pass of loss(w) gives F(w). The same passes give what the baseline criteria need:
gradients of gates on groups, and activations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.errors import ConfigError, DataError
from medcore.losses import boundary_band, score_loss_parts
from medcore.models.flows import flow_of, like_output
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
    *,
    one_pass: bool = False,
) -> CalibrationSums:
    """Sum squared per-image gradients of the scoring loss over images (3.3, 3.4).

    The prompts are the exact boxes. Pruned models work too. The model's mode, `requires_grad` and `grad` are unchanged.

    Args:
        model: the model to score.
        images: images with masks and boxes.
        indices: which of the images to use.
        nodes: boundary weights at which the gate gradients are taken; Fisher terms hold for every weight.
        progress: called after each image.
        one_pass: whether one backward pass an image gives the Fisher information at the only node, instead of two that
            give it for every weight.

    Returns:
        The sums over the images whose gradients are finite.

    Raises:
        MedcoreError: no image is given, or one pass is to serve several nodes.
    """
    if len(indices) == 0:
        raise DataError("scoring: no calibration image; check the data folder, its split and the image count")
    if one_pass and len(nodes) != 1:
        raise ConfigError(f"scoring: one backward pass serves one boundary weight, got {len(nodes)}; name one")
    collector = _Collector(model, nodes, one_pass)
    masks = torch.from_numpy(images.low_masks(model.arch.low_res, list(indices)))
    tensors = collector.tensors
    with _gradients_for(model, tensors), collector.gated(model), recording(model, model.spec) as activations:
        for done, (index, mask) in enumerate(zip(indices, masks, strict=True)):
            gradients = _gradients(collector, model, images, index, mask)
            collector.add(images.names[index], gradients, activations)
            if progress is not None:
                progress(done + 1, len(indices))
    return collector.sums


def _gradients(
    collector: _Collector, model: MedSam, images: ImageSet, index: int, mask: Tensor
) -> list[tuple[Tensor, ...]]:
    """Return the gradients of each part of one image's loss that the collector asks for.

    One forward pass serves all.
    """
    like = collector.tensors[0]
    target = mask[None, None].to(like)
    boxes = torch.as_tensor(images.boxes[[index]]).to(like)
    logits = model.segment(images.tensor([index]).to(like), boxes)
    losses = collector.losses(*score_loss_parts(logits, target, boundary_band(target)))
    return [
        torch.autograd.grad(
            loss,
            [*collector.tensors, *collector.gates.values()],
            retain_graph=loss is not losses[-1],
            materialize_grads=True,
        )
        for loss in losses
    ]


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


def _through(gate: Tensor, _module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    pairs = zip(flow_of(output), inputs, strict=True)
    return like_output(output, [new if new is old else new + (gate - 1) * (new - old) for new, old in pairs])


class _Collector:
    """Add the gradients of one image after another to `sums`."""

    def __init__(self, model: MedSam, nodes: Sequence[float], one_pass: bool) -> None:
        self.sums = CalibrationSums.zeros(model, nodes, terms=1 if one_pass else 3)
        self._nodes, self._one_pass = tuple(map(float, nodes)), one_pass
        self._spec = model.spec
        #: (block, name inside the block) of every tensor
        self._places: list[tuple[int, str]] = []
        self.tensors: list[Tensor] = []
        for number, block in enumerate(model.arch.blocks):
            for name, parameter in model.get_submodule(block.path).named_parameters():
                self._places.append((number, name))
                self.tensors.append(parameter)
        #: by number of the site, the gate on what a module changes, where no tensor carries it
        self.gates = {
            number: torch.ones((), dtype=self.tensors[0].dtype, device=self.tensors[0].device, requires_grad=True)
            for number, (site, width) in enumerate(zip(model.arch.sites, model.spec.widths, strict=True))
            if site.is_bypassed and width
        }
        blocks = model.arch.blocks
        self._names = [f"{blocks[number].path}.{name}" for number, name in self._places]

    @contextmanager
    def gated(self, model: MedSam) -> Iterator[None]:
        """Put the gates into the model. A gate of 1 changes no bit of an output."""
        handles = []
        for number, gate in self.gates.items():
            module = model.get_submodule(model.arch.sites[number].watch.module)
            handles.append(module.register_forward_hook(partial(_through, gate)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def losses(self, region: Tensor, boundary: Tensor) -> list[Tensor]:
        """Return the scalars to differentiate: loss(w) at the only node, or both of its parts."""
        return [region + self._nodes[0] * boundary] if self._one_pass else [region, boundary]

    @torch.no_grad()
    def add(self, name: str, gradients: list[tuple[Tensor, ...]], seen: Activations) -> None:
        """Add one image's gradients and activations.

        An image with a gradient that is not finite is left out and its name noted.
        """
        # the squares must be finite, not only the gradients; one synchronisation with the device for all
        norms = torch.stack([torch.linalg.vector_norm(each) for each in itertools.chain(*gradients)])
        if not bool(norms.square().isfinite().all()):
            self.sums.skipped.append(name)
            return
        self.sums.used += 1
        # the gates come after the parameters
        for (block, inside), *parts in zip(self._places, *gradients, strict=False):
            # g² alone, or g_r², g_r·g_b and g_b²
            pairs = list(itertools.combinations_with_replacement(parts, 2))
            if (total := self.sums.parameters[block].get(inside)) is not None:
                for term, pair in zip(total, pairs, strict=True):
                    term.addcmul_(*pair)
            else:
                self.sums.others[block] += torch.stack([(one * two).sum() for one, two in pairs]).double().cpu()
        self._add_gates(gradients)
        for number, values in seen.items():
            self.sums.active[number] += values.double().cpu()

    def _add_gates(self, gradients: list[tuple[Tensor, ...]]) -> None:
        """Add |∂loss(w)/∂gate| of a gate on each group's output, at every node w."""
        weights = dict(zip(self._names, self.tensors, strict=True))
        by_name = [dict(zip(self._names, values, strict=False)) for values in gradients]
        by_gate = [dict(zip(self.gates, values[len(self._names) :], strict=True)) for values in gradients]
        nodes = torch.tensor(self._nodes, dtype=torch.float64)
        sites = zip(self._spec.arch.sites, self._spec.widths, self.sums.gates, strict=True)
        for number, (site, width, total) in enumerate(sites):
            if width:
                if number in self.gates:
                    first, *rest = (values[number].double().reshape(1).cpu() for values in by_gate)
                else:
                    first, *rest = (gate_gradients(site, width, weights, values).cpu() for values in by_name)
                # (W, G); one pass has the gradient of the only node already
                total += (
                    torch.stack([first.expand(len(nodes), -1), *(nodes[:, None] * part for part in rest)]).sum(0).abs()
                )
