"""Boundary-aware Fisher information of the encoder's blocks, for every boundary weight at once (method §3).

The loss is affine in the boundary weight w, so its gradient is g_r + w·g_b and, with means over images,
F(w) = A + 2w·B + w²·C, A = E[g_r²], B = E[g_r·g_b], C = E[g_b²]. Two backward passes an image give all three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medcore.data import ImageSet
from medcore.errors import MedcoreError
from medcore.losses import boundary_band, score_loss_parts
from medcore.sam import MedSam

#: Called with (images done, images in all).
Progress = Callable[[int, int], None]

#: Modules whose parameters belong to prunable groups; their Fisher terms are kept per parameter.
_GROUPED = ("attn.qkv.", "attn.proj.", "mlp.lin1.", "mlp.lin2.")


@dataclass(frozen=True)
class FisherTerms:
    """Fisher terms of L encoder blocks; the leading axis of 3 is always A, B, C.

    Attributes:
        parameters: per block, name inside the block (`attn.qkv.weight`) -> (3, *parameter shape), on the
            model's device and in its dtype; qkv, proj, lin1 and lin2 only.
        sums: (L, 3) float64, sums over all parameters of a block, norms and relative positions included.
        used: images that the means are taken over.
        skipped: names of images left out because a gradient was not finite.
    """

    parameters: tuple[dict[str, Tensor], ...]
    sums: npt.NDArray[np.float64]
    used: int
    skipped: tuple[str, ...]


def fisher_terms(
    model: MedSam, images: ImageSet, indices: Sequence[int], progress: Progress | None = None
) -> FisherTerms:
    """Means over images of the squared per-image gradients of the scoring loss, with the exact box as prompt.

    Works on pruned models too. The model is left as it was (mode, `requires_grad`, `grad`).

    Raises:
        MedcoreError: no image is given, or none has finite gradients.
    """
    if len(indices) == 0:
        raise MedcoreError("Fisher: no calibration image; check the data folder, its split and the image count")
    accumulator = _Accumulator(model.image_encoder.blocks)
    masks = torch.from_numpy(images.subset(list(indices)).low_masks(model.arch.low_res))
    skipped = []
    with _gradients_for(model, accumulator.tensors):
        for done, (index, mask) in enumerate(zip(indices, masks, strict=True)):
            if not accumulator.add(*_gradients(model, images, index, mask, accumulator.tensors)):
                skipped.append(images.names[index])
            if progress is not None:
                progress(done + 1, len(indices))
    used = len(indices) - len(skipped)
    if used == 0:
        raise MedcoreError(
            f"Fisher: none of {len(indices)} images has finite gradients (first: {skipped[0]}); check the checkpoint"
        )
    parameters, sums = accumulator.means(used)
    return FisherTerms(parameters, sums, used, tuple(skipped))


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


class _Accumulator:
    """Running sums of g_r², g_r·g_b and g_b² over images: per parameter, or per tensor outside the groups."""

    def __init__(self, blocks: nn.Module) -> None:
        assert isinstance(blocks, nn.ModuleList)
        self.depth = len(blocks)
        #: (block, name inside the block) of every tensor
        self.places: list[tuple[int, str]] = []
        self.tensors: list[Tensor] = []
        self.totals: list[Tensor] = []
        for number, block in enumerate(blocks):
            for name, parameter in block.named_parameters():
                shape = parameter.shape if name.startswith(_GROUPED) else ()
                self.places.append((number, name))
                self.tensors.append(parameter)
                self.totals.append(torch.zeros((3, *shape), dtype=parameter.dtype, device=parameter.device))

    @torch.no_grad()
    def add(self, region: list[Tensor], boundary: list[Tensor]) -> bool:
        """Add one image's gradients; leaves the sums alone and returns False if one is not finite."""
        # the squares must be finite, not only the gradients; one synchronisation with the device for all
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in region + boundary])
        if not bool(norms.square().isfinite().all()):
            return False
        for total, first, second in zip(self.totals, region, boundary, strict=True):
            pairs = ((first, first), (first, second), (second, second))
            for term, (one, other) in zip(total, pairs, strict=True):
                if total.dim() == first.dim() + 1:
                    term.addcmul_(one, other)
                else:
                    term.add_((one * other).sum())
        return True

    @torch.no_grad()
    def means(self, images: int) -> tuple[tuple[dict[str, Tensor], ...], npt.NDArray[np.float64]]:
        parameters: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(self.depth))
        sums = np.zeros((self.depth, 3))
        for (block, name), total in zip(self.places, self.totals, strict=True):
            total /= images
            sums[block] += total.reshape(3, -1).double().sum(dim=1).cpu().numpy()
            if name.startswith(_GROUPED):
                parameters[block][name] = total
        return parameters, sums
