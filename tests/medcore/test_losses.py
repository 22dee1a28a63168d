"""Losses against float64 NumPy, against finite differences, and at the edges of what logits can be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medcore import losses

Array = npt.NDArray[np.float64]


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Smooth blobs that reach the frame now and then; (..., h, w), values 0 and 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0,) * (len(shape) - 2) + (2, 2))
    return (noise > 0.05).astype(np.float64)


def numpy_band(mask: Array) -> Array:
    """Naive loop over pixels; only neighbours inside the frame count."""
    band = np.zeros_like(mask)
    height, width = mask.shape[-2:]
    for index in np.ndindex(*mask.shape):
        row, column = index[-2:]
        rows = slice(max(0, row - 1), min(height, row + 2))
        window = mask[(*index[:-2], rows, slice(max(0, column - 1), min(width, column + 2)))]
        band[index] = window.max() - window.min()
    return band


def numpy_bce(z: Array, y: Array) -> Array:
    return np.logaddexp(0, z) - z * y


def numpy_dice(z: Array, y: Array) -> Array:
    p, axes = 1 / (1 + np.exp(-z)), (1, 2, 3)
    return 1 - (2 * (p * y).sum(axes) + 1e-5) / ((p**2).sum(axes) + (y**2).sum(axes) + 1e-5)


def numpy_upsample(z: Array, size: int) -> Array:
    """Bilinear with half-pixel centres (align_corners=False), clamped at the border, as two matrices."""
    low = z.shape[-1]
    position = np.clip((np.arange(size) + 0.5) * low / size - 0.5, 0, low - 1)
    below = np.floor(position).astype(int)
    matrix = np.zeros((size, low))
    matrix[np.arange(size), below] += 1 - (position - below)
    matrix[np.arange(size), np.minimum(below + 1, low - 1)] += position - below
    return np.einsum("ij,bcjk,lk->bcil", matrix, z, matrix)


def finite_differences(function: Callable[[Tensor], Tensor], z: Tensor, step: float = 1e-5) -> Tensor:
    gradient = torch.zeros_like(z)
    for index in np.ndindex(*z.shape):
        shift = torch.zeros_like(z)
        shift[index] = step
        gradient[index] = (function(z + shift) - function(z - shift)) / (2 * step)
    return gradient


@pytest.mark.parametrize("shape", [(1, 1, 7, 9), (3, 1, 12, 5)])
def test_band_equals_naive_loop(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for mask in (random_mask(rng, shape), np.ones(shape), np.zeros(shape)):
        np.testing.assert_array_equal(losses.boundary_band(torch.tensor(mask)).numpy(), numpy_band(mask))


def test_band_on_paper() -> None:
    mask = torch.zeros(1, 1, 5, 5)
    mask[..., 2, 2] = 1
    assert losses.boundary_band(mask).sum() == 9  # one pixel: its 3×3 square, nothing survives the erosion
    mask = torch.zeros(1, 1, 5, 5)
    mask[..., :2] = 1  # a strip along the frame has a band on its inner side only
    assert torch.equal(losses.boundary_band(mask)[0, 0, 0], torch.tensor([0.0, 1, 1, 0, 0]))


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_score_loss_is_region_plus_w_boundary(w: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, z = random_mask(rng, (1, 1, 16, 16)), 5 * rng.standard_normal((1, 1, 16, 16))
    expected = ((1 + w * numpy_band(y)) * numpy_bce(z, y)).sum() + numpy_dice(z, y)[0]
    mask = torch.tensor(y)
    region, boundary = losses.score_loss_parts(torch.tensor(z), mask, losses.boundary_band(mask))
    assert (region + w * boundary).item() == pytest.approx(expected, rel=1e-12)


def test_score_loss_gradient_equals_finite_differences() -> None:
    rng = np.random.default_rng(3)
    mask = torch.tensor(random_mask(rng, (1, 1, 6, 6)))
    band = losses.boundary_band(mask)
    logits = torch.tensor(2 * rng.standard_normal((1, 1, 6, 6)), requires_grad=True)
    for part in range(2):
        (gradient,) = torch.autograd.grad(losses.score_loss_parts(logits, mask, band)[part], logits)
        expected = finite_differences(
            lambda z, part=part: losses.score_loss_parts(z, mask, band)[part], logits.detach()
        )
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_score_loss_takes_one_image() -> None:
    two = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="one image"):
        losses.score_loss_parts(two, two, two)
    with pytest.raises(ValueError, match="one image"):
        losses.score_loss_parts(two[:1], two[:1], two[:1, :, :2])


@pytest.mark.parametrize("scale", [1e4, 80.0])
def test_extreme_logits_stay_finite(scale: float) -> None:
    mask = torch.tensor(random_mask(np.random.default_rng(5), (1, 1, 16, 16))).float()
    for logits in (scale * (2 * mask - 1), scale * (1 - 2 * mask)):
        logits.requires_grad_()
        region, boundary = losses.score_loss_parts(logits, mask, losses.boundary_band(mask))
        total = region + 3 * boundary + losses.segmentation_loss(logits, mask)
        (gradient,) = torch.autograd.grad(total + losses.high_frequency_distance(logits, mask), logits)
        assert torch.isfinite(total)
        assert torch.isfinite(gradient).all()
    assert losses.soft_dice_loss(torch.full((1, 1, 4, 4), -1e4), torch.zeros(1, 1, 4, 4)).item() == 0


def recovery_inputs(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    low, full = (2, 1, 12, 12), (2, 1, 48, 48)
    arrays = {
        "logits_low": 3 * rng.standard_normal(low),
        "mask_low": random_mask(rng, low),
        "mask_full": random_mask(rng, full),
        "embedding": rng.standard_normal((2, 5, 3, 3)),
        "teacher_embedding": rng.standard_normal((2, 5, 3, 3)),
        "teacher_logits": 3 * rng.standard_normal(low),
    }
    return {name: torch.tensor(array, dtype=dtype) for name, array in arrays.items()}


def numpy_terms(inputs: dict[str, Tensor]) -> dict[str, float]:
    x = {name: tensor.double().numpy() for name, tensor in inputs.items()}
    z, y = x["logits_low"], x["mask_low"]
    z_full, y_full = numpy_upsample(z, 48), x["mask_full"]
    bce = numpy_bce(z_full, y_full)
    spectra = np.fft.fft2(1 / (1 + np.exp(-z))) - np.fft.fft2(y)
    radius = np.hypot(np.fft.fftfreq(12)[:, None], np.fft.fftfreq(12)[None, :])
    return {
        "segmentation": bce.mean() / 2 + numpy_dice(z_full, y_full).mean() / 2,
        "boundary": ((1 + 4 * numpy_band(y_full)) * bce).sum() / bce.size,
        "embedding": ((x["embedding"] - x["teacher_embedding"]) ** 2).mean(),
        "boundary_logits": (numpy_band(y) * (z - x["teacher_logits"]) ** 2).sum() / z.size,
        "frequency": np.abs(spectra)[:, :, radius > 0.25].mean(),
    }


@pytest.mark.parametrize("seed", range(3))
def test_recovery_terms_equal_numpy(seed: int) -> None:
    inputs, lambdas = recovery_inputs(seed), (0.7, 0.3, 1.9, 0.2)
    total, terms = losses.recovery_loss(**inputs, lambdas=lambdas)
    expected = numpy_terms(inputs)
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-10), name
    weighted = np.dot((1.0, *lambdas), list(expected.values()))
    assert total.item() == pytest.approx(weighted, rel=1e-10)


def test_recovery_gradient_equals_finite_differences() -> None:
    inputs = recovery_inputs(7)
    logits = inputs.pop("logits_low")[:1, :, :6, :6].clone().requires_grad_()
    small = {name: tensor[:1] for name, tensor in inputs.items()}
    small["mask_low"], small["teacher_logits"] = small["mask_low"][..., :6, :6], logits.detach().flip(-1)

    def total(z: Tensor) -> Tensor:
        return losses.recovery_loss(z, **small)[0]

    (gradient,) = torch.autograd.grad(total(logits), logits)
    torch.testing.assert_close(gradient, finite_differences(total, logits.detach()), rtol=1e-5, atol=1e-6)


def test_a_perfect_student_pays_nothing() -> None:
    inputs = recovery_inputs(1)
    mask = torch.nn.functional.interpolate(inputs["mask_low"], scale_factor=4)
    logits = 1e3 * (2 * mask - 1)
    total, _ = losses.recovery_loss(logits, mask, mask, inputs["embedding"], inputs["embedding"], logits)
    assert total.item() == pytest.approx(0, abs=1e-9)


def test_frequency_distance_of_one_wave() -> None:
    """A cosine of 3/8 cycles per pixel lies above the limit, one of 1/8 below; 1/4 itself does not count."""
    columns = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    for cycles, counts in ((3 / 8, True), (1 / 8, False), (1 / 4, False)):
        wave = 0.5 + 0.25 * torch.cos(2 * torch.pi * cycles * columns)
        distance = losses.high_frequency_distance(torch.logit(wave), mask).item()
        assert (distance > 0.1) is counts


def test_bf16_autocast_runs_in_float32() -> None:
    reference = recovery_inputs(2, torch.float32)
    halves = {name: tensor.bfloat16() for name, tensor in reference.items()}
    exact = {name: tensor.double() for name, tensor in halves.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = halves.pop("logits_low").requires_grad_()
        total, terms = losses.recovery_loss(logits, **halves)
        total.backward()
    assert total.dtype == torch.float32
    expected: dict[str, Any] = numpy_terms(exact)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_training_loss_upsamples_and_adds() -> None:
    inputs = recovery_inputs(4)
    z_full, y = numpy_upsample(inputs["logits_low"].numpy(), 48), inputs["mask_full"].numpy()
    expected = numpy_bce(z_full, y).mean() + numpy_dice(z_full, y).mean()
    loss = losses.segmentation_loss(inputs["logits_low"], inputs["mask_full"])
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_losses_of_many_maps_are_those_of_each() -> None:
    torch.manual_seed(1)
    maps, mask = torch.randn(3, 5, 9, 7, dtype=torch.float64), torch.randint(2, (3, 1, 9, 7)).float()
    mask[1, 0, 2:5] = losses.IGNORED
    each = torch.stack([losses.segmentation_loss(maps[:, [number]], mask) for number in range(5)])
    torch.testing.assert_close(losses.segmentation_losses(maps, mask), each, rtol=1e-12, atol=0)


def test_released_dice_and_frequencies_equal_numpy() -> None:
    rng = np.random.default_rng(5)
    z, y = rng.normal(size=(3, 1, 16, 12)), random_mask(rng, (3, 1, 16, 12))
    p, axes = 1 / (1 + np.exp(-z)), (1, 2, 3)
    dice = 1 - 2 * (p * y).sum(axes) / (p.sum(axes) + y.sum(axes) + 1e-6)
    np.testing.assert_allclose(losses.released_dice_loss(torch.tensor(z), torch.tensor(y)), dice, rtol=1e-12)
    difference = np.abs(np.fft.rfft2(p) - np.fft.rfft2(y))
    low = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.rfftfreq(12)[None, :]) <= 0.25
    difference[..., low] = 0
    assert float(losses.released_frequency_distance(torch.tensor(z), torch.tensor(y))) == pytest.approx(
        difference.mean()
    )


def test_released_recovery_loss_changes_two_terms() -> None:
    rng = np.random.default_rng(6)
    z, teacher = (torch.tensor(rng.normal(size=(2, 1, 8, 8))) for _ in range(2))
    low, full = (torch.tensor(random_mask(rng, (2, 1, side, side))) for side in (8, 16))
    embedding, other = (torch.tensor(rng.normal(size=(2, 4, 2, 2))) for _ in range(2))
    inputs = (z, low, full, embedding, other, teacher)
    (_, text), (total, released) = losses.recovery_loss(*inputs), losses.recovery_loss(*inputs, released=True)
    assert {name for name in text if text[name] != released[name]} == {"segmentation", "frequency"}
    upsampled = torch.tensor(numpy_upsample(z.numpy(), 16))
    entropy = numpy_bce(upsampled.numpy(), full.numpy()).mean()
    dice = losses.released_dice_loss(upsampled, full).mean()
    assert float(released["segmentation"]) == pytest.approx(float(dice / 2 + entropy / 2))
    weighted = [scale * released[name] for scale, name in zip((1, *losses.LAMBDAS), released, strict=True)]
    assert float(total) == pytest.approx(float(sum(weighted)))


def test_released_terms_leave_out_what_counts_nowhere() -> None:
    rng = np.random.default_rng(7)
    z, y = rng.normal(size=(1, 1, 8, 8)), random_mask(rng, (1, 1, 8, 8))
    ignored = y.copy()
    ignored[..., 5:] = losses.IGNORED
    left = losses.released_dice_loss(torch.tensor(z[..., :5]), torch.tensor(y[..., :5]))
    assert float(losses.released_dice_loss(torch.tensor(z), torch.tensor(ignored))) == pytest.approx(float(left))
    other = z.copy()
    other[..., 5:] = 9
    distances = [losses.released_frequency_distance(torch.tensor(each), torch.tensor(ignored)) for each in (z, other)]
    assert float(distances[0]) == pytest.approx(float(distances[1]))
