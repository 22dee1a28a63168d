"""Small models and random images for the tests of recovery, cascade and training."""

from __future__ import annotations

import numpy as np
import torch

from medcore.data.load import ImageSet
from medcore.models.masks import keep_all
from medcore.models.sam import MedSam, build
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.training.refit.dense_streams import RefitSettings
from tests.support.helpers import TINY, spec_of

SIDE = TINY.img_size
#: The refit of most tests.
REFIT = RefitSettings(ridge=1e-3, batch_size=4, neck="all")


def random_images(count: int, seed: int = 0, read_only: bool = True) -> ImageSet:
    """Bright noisy rectangles of different sizes on darker noise; read-only arrays, as Ray hands them out."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (count, 3, SIDE, SIDE)).astype(np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    boxes = np.empty((count, 4), np.float32)
    for index in range(count):
        x0, y0 = random.integers(0, SIDE - 25, 2)
        width, height = random.integers(4, 25, 2)
        x1, y1 = x0 + width, y0 + height
        masks[index, y0 : y1 + 1, x0 : x1 + 1] = 1
        images[index, :, y0 : y1 + 1, x0 : x1 + 1] += 100
        boxes[index] = x0, y0, x1, y1
    if read_only:
        for array in (images, masks, boxes):
            array.setflags(write=False)
    truths = [mask.astype(bool) for mask in masks]
    return ImageSet(images, masks, boxes, truths, ["random"] * count, [f"{index}" for index in range(count)])


def tiny_model(seed: int = 0, heads: tuple[int, ...] | None = None) -> MedSam:
    """A random TINY model; `heads` per block if given."""
    torch.manual_seed(seed)
    dense = ModelSpec.dense(TINY)
    return build(dense if heads is None else spec_of(TINY, heads, dense.family("channels")))


def random_masks(seed: int = 0) -> PerSite:
    """Keep masks of a dense TINY model; block 2 loses all of its heads."""
    random = np.random.default_rng(seed)
    heads = [random.random(TINY.num_heads) < 0.6 for _ in range(TINY.depth)]
    heads[2] = np.zeros(TINY.num_heads, bool)
    return (*heads, *(random.random(TINY.mlp_dim) < 0.5 for _ in range(TINY.depth)))


def weights(model: MedSam) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a model."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Equal bit for bit."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Equal up to rounding: 1e-5 of all weights' norm, 3e-5 of each tensor's.

    A key's bias alone does not change attention: its gradient is rounding error, which AdamW scales up to whole steps.
    """
    whole, other = (torch.cat([value.flatten() for value in side.values()]) for side in (first, second))
    assert (other - whole).norm() <= 1e-5 * whole.norm()
    for name, value in first.items():
        if not name.endswith("k_proj.bias"):
            assert (second[name] - value).norm() <= 3e-5 * value.norm(), name


def masks_of(**narrow: int) -> PerSite:
    """Keep everything but the last groups of some sites, named like `channels_02`."""
    masks = keep_all(ModelSpec.dense(TINY))
    places = {site.name.replace("/", "_"): place for place, site in enumerate(TINY.sites)}
    for name, width in narrow.items():
        masks[places[name]][width:] = False
    return masks
