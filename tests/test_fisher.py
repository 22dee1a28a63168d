"""Fisher terms against plain per-image autograd of the loss as method §3 writes it."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medcore.data import ImageSet
from medcore.errors import MedcoreError
from medcore.fisher import fisher_terms
from medcore.sam import MedSam, build
from medcore.spec import EncoderSpec
from tests.helpers import TINY

PRUNED = EncoderSpec(TINY, (3, 0, 1, 2), (48, 7, 0, 20))


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


def seeded(spec: EncoderSpec, seed: int) -> MedSam:
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


@pytest.mark.parametrize("spec", [EncoderSpec.dense(TINY), PRUNED], ids=["dense", "pruned"])
def test_terms_give_the_fisher_at_every_boundary_weight(spec: EncoderSpec) -> None:
    model, images = seeded(spec, 1), discs(3)
    terms = fisher_terms(model, images, range(3))
    assert (terms.used, terms.skipped) == (3, ())
    for w in (0.0, 3.0, 7.5):
        expected = brute_force(model, images, [0, 1, 2], w)
        sums = np.zeros(TINY.depth)
        for name, value in expected.items():
            if name.startswith("blocks."):
                _, block, inside = name.split(".", 2)
                sums[int(block)] += float(value.sum())
                if inside.startswith(("attn.qkv", "attn.proj", "mlp.")):
                    a, b, c = terms.parameters[int(block)][inside]
                    torch.testing.assert_close(a + 2 * w * b + w**2 * c, value, rtol=1e-5, atol=1e-12)
        a, b, c = terms.sums.T
        np.testing.assert_allclose(a + 2 * w * b + w**2 * c, sums, rtol=1e-6)


def test_single_precision_agrees_and_the_subset_is_respected() -> None:
    model, images = seeded(EncoderSpec.dense(TINY), 2), discs(4)
    exact = fisher_terms(model, images, [3, 1])
    single = fisher_terms(model.float(), images, [3, 1])
    np.testing.assert_allclose(single.sums, exact.sums, rtol=1e-3)
    assert single.parameters[0]["attn.qkv.weight"].dtype == torch.float32


def test_image_without_finite_gradients_is_skipped_and_named() -> None:
    model, images = seeded(EncoderSpec.dense(TINY), 1), discs(3)
    images.boxes[1] = np.nan
    terms = fisher_terms(model, images, range(3))
    assert (terms.used, terms.skipped) == (2, ("disc1",))
    np.testing.assert_allclose(terms.sums, fisher_terms(model, images, [0, 2]).sums)
    with pytest.raises(MedcoreError, match="none of 1 images has finite gradients"):
        fisher_terms(model, images, [1])
    with pytest.raises(MedcoreError, match="no calibration image"):
        fisher_terms(model, images, [])


def test_model_is_left_as_it_was_and_arrays_may_be_read_only() -> None:
    model, images = seeded(EncoderSpec.dense(TINY), 1), discs(2)
    for array in (images.images, images.masks, images.boxes):
        array.setflags(write=False)
    model.train()
    model.mask_decoder.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    calls: list[tuple[int, int]] = []
    with torch.no_grad():
        fisher_terms(model, images, range(2), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert model.training
    assert before == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
