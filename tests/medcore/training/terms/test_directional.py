"""The directional distance against spatial convolutions, Parseval's sum and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcore.losses import IGNORED
from medcore.training.terms.directional import (
    DIRECTIONS,
    SCALES,
    band_magnitudes,
    directional_distance,
    energy_weights,
    oriented_filters,
)
from tests.medcore.test_losses import finite_differences, random_mask


def magnitudes_in_space(signal: np.ndarray) -> np.ndarray:
    """Convolve one image (h, w) with the kernels: sums over the pixels of the image, mirrored at its frame."""
    sides = [(min(16, side - 1), side) for side in signal.shape]
    padded = np.pad(signal, [(margin, margin) for margin, _ in sides], mode="reflect")
    kernels = np.fft.ifft2(oriented_filters(*padded.shape).numpy())
    # (side, padded side): from which entry of the kernel a pixel gets another one
    rows, columns = (
        (margin + np.arange(side)[:, None] - np.arange(length)) % length
        for (margin, side), length in zip(sides, padded.shape, strict=True)
    )
    return np.abs(np.einsum("skaibj,ij->skab", kernels[:, :, rows[:, :, None, None], columns[None, None]], padded))


def samples(seed: int, side: int, batch: int = 2) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    arrays = {
        "logits": 3 * rng.standard_normal((batch, 1, side, side)),
        "mask": random_mask(rng, (batch, 1, side, side)),
        "teacher_logits": 3 * rng.standard_normal((batch, 1, side, side)),
        "image": rng.random((batch, 1, side, side)),
    }
    return {name: torch.tensor(array) for name, array in arrays.items()}


def test_the_distance_equals_convolutions_in_space() -> None:
    values = samples(0, 11)
    values["mask"][0, 0, 8:] = IGNORED
    x = {name: value.numpy()[:, 0] for name, value in values.items()}
    counted = x["mask"] != IGNORED
    total = 0.0
    for index in range(2):
        inside = counted[index]
        energy = magnitudes_in_space(x["image"][index]) ** 2 * inside
        mean = energy.sum(axis=(1, 2, 3)) / (DIRECTIONS * inside.sum())
        weights = energy / (energy + mean[:, None, None, None] + 1e-6)
        student, teacher = (1 / (1 + np.exp(-x[name][index])) for name in ("logits", "teacher_logits"))
        for target in (x["mask"][index], teacher):
            total += (weights * magnitudes_in_space((student - target) * inside)).sum()
    expected = total / (2 * counted.sum())
    assert directional_distance(**values).item() == pytest.approx(expected, rel=1e-9)


def test_all_responses_together_have_the_signals_energy_above_the_coarsest_octave() -> None:
    filters = oriented_filters(31, 27).numpy()
    signal = np.random.default_rng(1).standard_normal((31, 27))
    spectrum = np.fft.fft2(signal)
    radius = np.hypot(np.fft.fftfreq(31)[:, None], np.fft.fftfreq(27)[None, :])
    high = radius >= 2.0 ** (-SCALES - 1)
    responses = np.fft.ifft2(spectrum * high * filters)
    assert (np.abs(responses) ** 2).sum() == pytest.approx((np.abs(spectrum * high) ** 2).sum() / radius.size)
    assert np.abs(filters[..., radius < 2.0 ** (-SCALES - 2)]).max() < 1e-15


@pytest.mark.parametrize("direction", range(DIRECTIONS))
@pytest.mark.parametrize("scale", range(SCALES))
def test_a_wave_is_found_in_its_octave_and_direction_whatever_its_phase(scale: int, direction: int) -> None:
    rows, columns = torch.meshgrid(*2 * [torch.arange(64, dtype=torch.float64)], indexing="ij")
    angle = torch.pi * torch.tensor(direction / DIRECTIONS, dtype=torch.float64)
    position = columns * angle.cos() + rows * angle.sin()
    for phase in (0.0, 1.0):
        wave = torch.cos(2 * torch.pi * position / 2 ** (scale + 2) + phase)
        found = band_magnitudes(wave[None, None])[0, 0, :, :, 24:40, 24:40].mean(dim=(-2, -1))
        assert divmod(int(found.argmax()), DIRECTIONS) == (scale, direction)


def test_an_edge_of_the_image_weighs_along_its_own_direction_only() -> None:
    image = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    image[..., 16:] = 1
    weights = energy_weights(image, torch.ones_like(image))[0, 0]
    assert weights[:, 0, :, 15:17].min() > 0.8 > 0.2 > weights[:, 2].max()
    assert energy_weights(torch.ones_like(image), torch.ones_like(image)).max() < 1e-6  # a flat image has none


def test_the_gradient_equals_finite_differences_and_ignored_pixels_have_none() -> None:
    values = samples(2, 4, batch=1)
    values["mask"][..., 3:] = IGNORED
    logits = values.pop("logits").requires_grad_()
    (gradient,) = torch.autograd.grad(directional_distance(logits, **values), logits)
    expected = finite_differences(lambda z: directional_distance(z, **values), logits.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    assert gradient[..., 3:].abs().max() == 0


def test_a_perfect_student_of_a_perfect_teacher_pays_nothing_in_half_precision_too() -> None:
    values = samples(3, 16)
    z = (200 * values["mask"] - 100).bfloat16().requires_grad_()
    distance = directional_distance(z, values["mask"], z.detach(), values["image"])
    distance.backward()
    assert distance.dtype == torch.float32 and distance.item() == pytest.approx(0, abs=1e-6)
    assert z.grad is not None and z.grad.isfinite().all()
