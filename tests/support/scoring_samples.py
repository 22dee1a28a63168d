"""Score tables, images and models for the tests of scores, and their Fisher terms by plain autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from medcore.data.load import ImageSet
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.scoring.score_table import ScoreTable, families_of
from tests.support.helpers import TINY, spec_of

PRUNED = spec_of(TINY, (3, 0, 1, 2), (48, 7, 0, 20))


def discs(count: int, size: int = 64, seed: int = 0, datasets: tuple[str, ...] = ("one",)) -> ImageSet:
    """Noisy images with a bright disc each; data sets take turns."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images = generator.integers(0, 120, (count, 3, size, size))
    masks = np.zeros((count, size, size), dtype=np.uint8)
    boxes = np.zeros((count, 4), dtype=np.float32)
    for number in range(count):
        y, x = generator.uniform(0.35 * size, 0.65 * size, 2)
        disc = np.hypot(rows - y, columns - x) < generator.uniform(0.15, 0.3) * size
        images[number, :, disc] += 100
        masks[number] = disc
        ys, xs = np.nonzero(disc)
        boxes[number] = xs.min(), ys.min(), xs.max(), ys.max()
    return ImageSet(
        images=images.astype(np.uint8),
        masks=masks,
        boxes=boxes,
        truths=[mask.astype(bool) for mask in masks],
        datasets=[datasets[number % len(datasets)] for number in range(count)],
        names=[f"disc{number}" for number in range(count)],
    )


def seeded(spec: ModelSpec, seed: int) -> MedSam:
    """Random double-precision model; biases and relative positions are drawn too, so that nothing is zero."""
    model = build(spec).double()
    model.prompt_encoder.float()  # segment-anything encodes positions in single precision only
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.05 * noise)
    return model


def brute_force(model: MedSam, images: ImageSet, indices: list[int], w: float) -> dict[str, torch.Tensor]:
    """Mean over images of the squared gradient of loss(w), for every encoder parameter."""
    parameters = dict(model.image_encoder.named_parameters())
    totals = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for index in indices:
        mask = images.low_masks(model.arch.low_res)[index].astype(bool)
        square = np.ones((3, 3), dtype=bool)
        band = ndimage.binary_dilation(mask, square) & ~ndimage.binary_erosion(mask, square, border_value=1)
        y, b = (torch.from_numpy(each.astype(np.float64)) for each in (mask, band))
        model.zero_grad()
        box = torch.from_numpy(images.boxes[[index]])
        z = model.segment(images.tensor([index]).double(), box)[0, 0]
        p = torch.sigmoid(z)
        entropy = -(y * torch.log(p) + (1 - y) * torch.log(1 - p))
        dice = 1 - (2 * (p * y).sum() + 1e-5) / ((p**2).sum() + (y**2).sum() + 1e-5)
        (((1 + w * b) * entropy).sum() + dice).backward()
        for name, value in parameters.items():
            if value.grad is not None:
                totals[name] += value.grad**2 / len(indices)
    model.zero_grad(set_to_none=True)
    return {name: total.detach() for name, total in totals.items()}


def score_loss_of(model: MedSam, images: ImageSet, index: int, w: float) -> float:
    """loss(w) of one image as method §3 writes it."""
    mask = images.low_masks(model.arch.low_res)[index].astype(bool)
    square = np.ones((3, 3), dtype=bool)
    band = ndimage.binary_dilation(mask, square) & ~ndimage.binary_erosion(mask, square, border_value=1)
    with torch.no_grad():
        z = model.segment(images.tensor([index]).double(), torch.from_numpy(images.boxes[[index]]))[0, 0].numpy()
    p = 1 / (1 + np.exp(-z))
    entropy = -(mask * np.log(p) + (1 - mask) * np.log(1 - p))
    dice = 1 - (2 * (p * mask).sum() + 1e-5) / ((p**2).sum() + mask.sum() + 1e-5)
    return float(((1 + w * band) * entropy).sum() + dice)


def random_table(arch: SamVit = TINY, datasets: int = 3, seed: int = 0) -> ScoreTable:
    """Positive quadratics: |b| stays below sqrt(a·c)."""
    generator = np.random.default_rng(seed)

    def terms(*shape: int) -> np.ndarray:
        a, c = generator.lognormal(size=(2, datasets, *shape))
        return np.stack([a, generator.uniform(-1, 1, a.shape) * np.sqrt(a * c), c], axis=1)

    nodes = (0.0, 1.0, 3.0, 10.0)
    shapes = {"heads": (arch.depth, arch.num_heads), "channels": (arch.depth, arch.mlp_dim)}
    leading = {"reset": (datasets, len(nodes)), "michel": (datasets, len(nodes)), "activation": (datasets,)}
    arrays = {f"zero_{family}": terms(*shape) for family, shape in shapes.items()}
    for statistic in ("reset", "michel", "activation", "magnitude"):
        for family, shape in shapes.items():
            size = (*leading.get(statistic, ()), *shape)
            arrays[f"{statistic}_{family}"] = generator.lognormal(size=size)
    return ScoreTable(
        datasets=tuple(f"set{number}" for number in range(datasets)),
        nodes=nodes,
        families=families_of(ModelSpec.dense(arch)),
        arrays=arrays,
        block_fisher=terms(arch.depth),
        meta={"note": "random"},
    )


def with_arrays(table: ScoreTable, **arrays: np.ndarray) -> ScoreTable:
    """The table with some arrays exchanged."""
    return replace(table, arrays={**table.arrays, **arrays})


def arrays_of(table: ScoreTable) -> dict[str, np.ndarray]:
    return {**table.arrays, "block_fisher": table.block_fisher}
