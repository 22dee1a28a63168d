"""Rounds of PSP-Seg: mask when the loss stands still, cut one round later, take back what hurts (6.10).

A masked group is out of the model that trains, but its weights are kept. So what comes back is as it was.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from medcore.data.load import ImageSet
from medcore.devices import Microbatches, device_of, mixed_precision
from medcore.losses import segmentation_loss
from medcore.models.groups import kept_entries
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite

#: A loss that is this much above its best is worse, and one that fell by less stands still.
TOLERANCE = 1e-3
#: Images that the loss of a round is measured on.
IMAGES = 32
#: Images of one forward pass.
_BATCH = 8


@dataclass(frozen=True)
class Progress:
    """Where the rounds of a plateau plan stand. Shares are of the way from the first widths to the target.

    Attributes:
        cut: share that is cut for good.
        masked: share with the masked groups, at least `cut`.
        step: share that the next mask adds.
        best: lowest loss of all rounds.
        last: loss of the round before.
    """

    cut: float = 0.0
    masked: float = 0.0
    step: float = 1.0
    best: float = math.inf
    last: float = math.inf

    @property
    def is_pending(self) -> bool:
        """Return whether groups are masked and not cut yet."""
        return self.masked > self.cut


def judged(progress: Progress, loss: float) -> Progress:
    """Return the progress after the masked groups are cut, or come back.

    They come back if the loss is worse than its best by `TOLERANCE`. The step is then half as large.

    Args:
        progress: before the round.
        loss: of the model without the masked groups; NaN is worse than any.
    """
    if math.isnan(loss):
        loss = math.inf
    seen = replace(progress, best=min(progress.best, loss), last=loss)
    if progress.is_pending and loss >= progress.best + TOLERANCE:
        return replace(seen, masked=progress.cut, step=progress.step / 2)
    return replace(seen, cut=progress.masked)


def fires(before: Progress, after: Progress) -> bool:
    """Return whether the next groups are masked: nothing came back, and the loss stands still.

    Args:
        before: the progress before the round.
        after: the same, judged.
    """
    came_back = after.masked < before.masked
    return not came_back and before.last - after.last < TOLERANCE and after.cut < 1


def advanced(progress: Progress) -> Progress:
    """Return the progress after the next mask."""
    return replace(progress, masked=min(1.0, progress.cut + progress.step))


@torch.no_grad()
def loss_on(model: MedSam, images: ImageSet, autocast: bool) -> float:
    """Return the segmentation loss of a model on up to `IMAGES` images, evenly spread over the set.

    Args:
        model: the model.
        images: images with masks; their exact boxes are the prompts.
        autocast: whether to run the model in bfloat16.
    """
    device, microbatches, total = device_of(model), Microbatches(), 0.0
    indices = np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(np.intp))
    for start in range(0, len(indices), _BATCH):
        batch = indices[start : start + _BATCH]

        def measure(pieces: list[slice], batch: npt.NDArray[np.intp] = batch) -> float:
            loss = 0.0
            for chosen in (batch[piece] for piece in pieces):
                with mixed_precision(device, autocast):
                    logits = model.segment(images.tensor(chosen).to(device), images.box_tensor(chosen).to(device))
                loss += segmentation_loss(logits, images.mask_tensor(chosen).to(device)).item() * len(chosen)
            return loss

        total += microbatches.run(len(batch), measure)
    return total / len(indices)


@torch.no_grad()
def put_back(model: MedSam, trained: MedSam, masks: PerSite) -> MedSam:
    """Return a copy of a model with the values of a smaller one, which was cut from it and trained.

    Args:
        model: stays as it is. Its groups that `trained` lacks keep their values.
        trained: `medcore.models.cut.prune(model, masks)`, after training.
        masks: bool over the groups of `model`.
    """
    whole = copy.deepcopy(model)
    entries: dict[str, dict[int, torch.Tensor]] = {}
    for site, width, mask in zip(model.arch.sites, trained.spec.widths, masks, strict=True):
        keep = torch.tensor(mask, device=model.device) & bool(width)
        for part in site.tensors:
            if part.axis is not None:
                entries.setdefault(part.name, {})[part.axis] = kept_entries(part, keep).nonzero().squeeze(1)
    tensors = whole.state_dict()
    for name, value in trained.state_dict().items():
        axes = entries.get(name)
        if axes is None:
            tensors[name].copy_(value)
            continue
        sizes = enumerate(tensors[name].shape)
        index = [axes.get(axis, torch.arange(size, device=value.device)) for axis, size in sizes]
        tensors[name][torch.meshgrid(*index, indexing="ij")] = value
    return whole
