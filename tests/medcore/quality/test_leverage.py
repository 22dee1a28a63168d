"""Boundary leverage: the formulas against brute force and scipy, its first order against measured contours."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import find_contours

from medcore.quality.leverage import (
    LEAST_POINTS,
    TAUS,
    boundary_displacement,
    boundary_zone,
    displacement,
    gradient_magnitude,
    schedule_leverage,
    step_leverage,
    upsample,
)

SIDE, CENTRE, RADIUS = 256, 127.3, 80.0


def random_fields(seed: int, count: int = 3, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(count, side, side))
    return a, a + 0.3 * rng.normal(size=a.shape)


def blob(side: int) -> np.ndarray:
    """An L that the frame cuts at its left edge."""
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[side // 3 : side // 3 + side // 4, : side // 2] = 1
    mask[side // 3 :, side // 4 : side // 2] = 1
    return mask


def radii(centre_x: float = CENTRE) -> np.ndarray:
    down, right = np.mgrid[:SIDE, :SIDE]
    return np.hypot(down - CENTRE, right - centre_x)


def contour_radii(field: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Distance from the centre to the zero contour along rays, found to a fraction of a pixel."""
    (contour,) = find_contours(field, 0.0)
    down, right = contour[:-1, 0] - CENTRE, contour[:-1, 1] - CENTRE
    angle = np.arctan2(down, right)
    order = np.argsort(angle)
    return np.interp(angles, angle[order], np.hypot(down, right)[order], period=2 * np.pi)


# formulas


@pytest.mark.parametrize("shape", [(9, 13), (3, 9, 13), (2, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_gradient_is_scipys_sobel_over_8(shape: tuple[int, ...], dtype: type) -> None:
    field = np.random.default_rng(0).normal(size=shape).astype(dtype)
    exact = field.astype(np.float64)
    expected = np.hypot(ndimage.sobel(exact, axis=-1), ndimage.sobel(exact, axis=-2)) / 8
    if len(shape) == 3:
        images = [np.hypot(ndimage.sobel(one, axis=0), ndimage.sobel(one, axis=1)) / 8 for one in exact]
        expected = np.stack(images)
    assert gradient_magnitude(field) == pytest.approx(expected, abs=1e-5)


def test_gradient_of_a_plane_is_its_slope_inside_the_frame() -> None:
    down, right = np.mgrid[:8, :8].astype(np.float64)
    assert gradient_magnitude(3 * right - 4 * down)[1:-1, 1:-1] == pytest.approx(np.full((6, 6), 5.0))


def test_upsampling_is_bilinear_between_pixel_centres() -> None:
    across = [0.0, 1.0, 3.0, 4.0]
    assert upsample(np.array([[[0.0, 4.0], [0.0, 4.0]]]), 4)[0] == pytest.approx(np.array([across] * 4))


def test_displacement_is_clipped_by_each_images_own_percentile() -> None:
    a, b = random_fields(1)
    a[1] *= 100
    moved = displacement(a, b)
    for image in range(len(a)):
        gradient = gradient_magnitude(a[image])
        clip = np.percentile(gradient[gradient > 0], 5)
        assert (gradient < clip).any()
        expected = np.abs(b[image] - a[image]) / np.where(gradient < clip, clip, gradient)
        assert moved[image] == pytest.approx(expected)
        assert displacement(a[image], b[image]) == pytest.approx(expected)


def test_clip_ignores_pixels_without_gradient() -> None:
    a = np.zeros((40, 40))
    a[:, 35:] = np.arange(1, 6) * 2.0
    gradient = gradient_magnitude(a)
    assert displacement(a, a + 1)[20, 5] == pytest.approx(1 / np.percentile(gradient[gradient > 0], 5))


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5, *TAUS])
def test_zone_by_brute_force(tau: float) -> None:
    mask = blob(20)
    height, width = mask.shape
    surface = [
        (y, x)
        for y in range(height)
        for x in range(width)
        if mask[y, x]
        and any(
            not (0 <= y + j < height and 0 <= x + i < width and mask[y + j, x + i])
            for j in (-1, 0, 1)
            for i in (-1, 0, 1)
        )
    ]
    expected = [[any(math.hypot(y - j, x - i) <= tau for j, i in surface) for x in range(width)] for y in range(height)]
    assert (boundary_zone(mask, tau) == np.array(expected)).all()
    assert (boundary_zone(np.stack([0 * mask, mask]), tau)[1] == np.array(expected)).all()


def test_lambdas_by_brute_force() -> None:
    low_a, low_b = (field.astype(np.float32) for field in random_fields(2, count=2, side=8))
    masks = np.stack([blob(32), blob(32).T])
    removed = 2.5
    zones = {tau: boundary_zone(masks, tau) for tau in TAUS}
    found = step_leverage(low_a, low_b, zones, removed)
    a, b = upsample(low_a, 32).astype(np.float64), upsample(low_b, 32).astype(np.float64)
    for tau in TAUS:
        near95, everywhere = [], []
        for image in range(2):
            slopes = {}
            for y in range(32):
                for x in range(32):
                    # pixels beyond the edge repeat those at the edge
                    at = np.pad(a[image], 1, mode="edge")[y : y + 3, x : x + 3]
                    across = sum(w * (at[k, 2] - at[k, 0]) for k, w in enumerate((1, 2, 1))) / 8
                    down = sum(w * (at[2, k] - at[0, k]) for k, w in enumerate((1, 2, 1))) / 8
                    slopes[y, x] = math.hypot(across, down)
            clip = np.percentile([slope for slope in slopes.values() if slope > 0], 5)
            change = {pixel: abs(b[image][pixel] - a[image][pixel]) for pixel in slopes}
            near = [change[pixel] / max(slopes[pixel], clip) for pixel in slopes if zones[tau][image][pixel]]
            near95.append(np.percentile(near, 95) / removed)
            everywhere.append(np.mean(list(change.values())) / removed)
        assert found[tau].lambda_bd95 == pytest.approx(np.mean(near95), rel=1e-4)
        assert found[tau].lambda_reg == pytest.approx(np.mean(everywhere), rel=1e-5)
        assert found[tau].images == 2


@pytest.mark.parametrize("low", [16, 32])
def test_padding_does_not_count(low: int) -> None:
    """Each image alone, cut by hand, at two ratios between logits and square."""
    a, b = (field.astype(np.float32) for field in random_fields(9, count=2, side=low))
    masks, inner = np.stack([blob(32), blob(32).T]), [(18, 32), (32, 15)]
    masks[0, 18:] = masks[1, :, 15:] = 255
    zones = {tau: boundary_zone(masks, tau) for tau in TAUS}
    found = step_leverage(a, b, zones, 2.0, inner)
    moved95, changes = {tau: [] for tau in TAUS}, []
    for index, (height, width) in enumerate(inner):
        one, other = (upsample(each[index : index + 1], 32)[0, :height, :width] for each in (a, b))
        changes.append(np.abs(other - one).mean())
        for tau in TAUS:
            near = boundary_zone(masks[index, :height, :width], tau)
            moved95[tau].append(np.percentile(displacement(one, other)[near], 95))
    for tau in TAUS:
        assert found[tau].displacements == pytest.approx(moved95[tau], rel=1e-6)
        assert found[tau].changes == pytest.approx(changes, rel=1e-6)
    assert boundary_displacement(a, b, zones[3.0], inner) == pytest.approx(moved95[3.0], rel=1e-6)
    assert schedule_leverage(a, b, masks, 2.0, inner=inner)["leverage_reg"] == pytest.approx(np.mean(changes) / 2)


def test_an_image_whose_field_changes_in_the_padding_alone_does_not_count() -> None:
    a, b = random_fields(10, count=1, side=16)
    mask = blob(32)[None]
    # rows 0..17 of the square lie between cells 0..9
    a[0, :10] = 0.3
    assert np.isnan(step_leverage(a, b, {3.0: boundary_zone(mask, 3)}, 1.0, [(18, 32)])[3.0].changes).all()
    a[0, 9] = 0.4
    assert step_leverage(a, b, {3.0: boundary_zone(mask, 3)}, 1.0, [(18, 32)])[3.0].images == 1


# first order against contours


@pytest.mark.parametrize("delta", [-1.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("slope", [0.2, 3.0])
@pytest.mark.parametrize("shape", ["cone", "paraboloid"])
def test_dilated_disc_moves_as_far_as_measured(delta: float, slope: float, shape: str) -> None:
    def field(radius: float) -> np.ndarray:
        r = radii()
        return slope * (radius - r) if shape == "cone" else slope * (radius**2 - r**2) / (2 * radius)

    a, b = field(RADIUS), field(RADIUS + delta)
    angles = np.linspace(-3, 3, 200)
    measured = np.abs(contour_radii(b, angles) - contour_radii(a, angles))
    assert measured == pytest.approx(np.full(200, abs(delta)), rel=0.01)
    surface = boundary_zone(radii() <= RADIUS, 0)
    predicted = displacement(a, b)[surface]
    assert np.percentile(predicted, 95) == pytest.approx(np.percentile(measured, 95), rel=0.05)
    assert np.median(predicted) == pytest.approx(np.median(measured), rel=0.05)


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_shifted_disc_moves_by_the_normal_part_of_the_shift(delta: float) -> None:
    """The contour of a shifted disc moves by δ·|cos θ|: the percentile must pick the right part of the boundary."""
    a, b = RADIUS - radii(), RADIUS - radii(CENTRE + delta)
    angles = np.linspace(-np.pi, np.pi, 2000, endpoint=False)
    measured = np.abs(contour_radii(b, angles) - contour_radii(a, angles))
    for tau in TAUS:
        moved = displacement(a, b)[boundary_zone(radii() <= RADIUS, tau)]
        assert np.percentile(moved, 95) == pytest.approx(np.percentile(measured, 95), rel=0.05)


def test_low_resolution_logits_give_displacements_in_pixels_of_the_square() -> None:
    """A quarter of the resolution: δ pixels of the square are δ/4 low-resolution pixels."""
    delta, low = 2.0, SIDE // 4
    r = radii().reshape(low, 4, low, 4).mean(axis=(1, 3))
    mask = (radii() <= RADIUS).astype(np.uint8)
    found = step_leverage((RADIUS - r)[None], (RADIUS + delta - r)[None], {3.0: boundary_zone(mask[None], 3)}, 4.0)[3.0]
    assert found.displacement_p95 == pytest.approx(delta, rel=0.05)
    assert found.lambda_bd95 == pytest.approx(delta / 4, rel=0.05)
    assert found.lambda_reg == pytest.approx(delta / 4)


# grid and summary


@pytest.mark.parametrize("case", ["constant field", "empty mask", "NaN", "infinity"])
def test_images_without_a_displacement_do_not_count(case: str) -> None:
    a, b = (field.astype(np.float32) for field in random_fields(3, count=2, side=8))
    masks = np.stack([blob(32), blob(32)])
    alone = step_leverage(a[:1], b[:1], {3.0: boundary_zone(masks[:1], 3)}, 1.0)[3.0]
    if case == "constant field":
        a[1] = 0.3
    elif case == "empty mask":
        masks[1] = 0
    else:
        b[1, 2, 2] = np.nan if case == "NaN" else np.inf
    both = step_leverage(a, b, {3.0: boundary_zone(masks, 3)}, 1.0)[3.0]
    assert (both.images, both.lambda_bd95, both.lambda_reg) == (1, alone.lambda_bd95, alone.lambda_reg)
    assert np.isnan(both.displacements[1]) and np.isnan(both.changes[1])
    none = step_leverage(a[1:], b[1:], {3.0: boundary_zone(masks[1:], 3)}, 1.0)[3.0]
    assert none.images == 0 and math.isnan(none.lambda_bd95) and math.isnan(none.lambda_reg)


def test_constant_field_has_no_displacement() -> None:
    assert np.isnan(displacement(np.ones((4, 4)), np.zeros((4, 4)))).all()


@pytest.mark.parametrize("removed", [0.0, LEAST_POINTS])
def test_step_that_removes_too_little_is_skipped(removed: float) -> None:
    a, b = random_fields(4, count=1, side=8)
    found = step_leverage(a, b, {3.0: boundary_zone(blob(32)[None], 3)}, removed)[3.0]
    assert found.skipped and math.isnan(found.lambda_bd95) and math.isnan(found.lambda_reg)
    assert found.displacement_p95 > 0


def test_schedule_is_one_step_from_the_dense_model() -> None:
    a, b = random_fields(5, count=2, side=8)
    masks = np.stack([blob(32), blob(32).T])
    found = schedule_leverage(a, b, masks, 60.0)
    step = step_leverage(a, b, {3.0: boundary_zone(masks, 3)}, 60.0)[3.0]
    assert found == {
        "leverage_bd95": step.lambda_bd95,
        "leverage_reg": step.lambda_reg,
        "leverage_displacement_p95": pytest.approx(60.0 * step.lambda_bd95),
    }
    dense = schedule_leverage(a, a, masks, 0.0)
    assert math.isnan(dense["leverage_bd95"]) and dense["leverage_displacement_p95"] == 0
