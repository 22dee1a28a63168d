"""Boundary leverage: how far removing one per cent of the encoder moves the mask's edge (method §8).

A level set {z = 0} shifts by |δz| / |∇z| pixels under a small change δz, to first order. Logit fields are those of the
model's frame: the low-resolution logits, upsampled bilinearly (align_corners=False) to the square of side S of images
and true masks. So ∇z, τ and displacements are in pixels of that square, not of the original image. Where the square is
padded, the frame of an image is its part of the square, and nothing beyond it counts.

One step A → B removes ΔC percentage points of the dense encoder's parameters. For each image λ_bd95 is the 95th
percentile, near the true boundary, of the predicted displacement, over ΔC; λ_reg is the mean over the whole frame of
|z_B − z_A|, over ΔC. A step's value is the mean over images; `summary` takes medians over steps.

An image counts in neither λ if the displacement is undefined: its true mask is empty, z_A is constant (no level set
to move), or a logit is not finite. `images` says how many count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from medcore.quality.leverage_grid import (
    HEAD_SPARSITIES,
    MLP_SPARSITIES,
    GridStep,
    Point,
    grid_points,
    grid_steps,
    summary,
)
from medcore.quality.surfaces import surface

__all__ = [
    "HEAD_SPARSITIES",
    "LEAST_POINTS",
    "MLP_SPARSITIES",
    "TAUS",
    "GridStep",
    "Leverage",
    "Point",
    "Sizes",
    "boundary_displacement",
    "boundary_zone",
    "displacement",
    "gradient_magnitude",
    "grid_points",
    "grid_steps",
    "schedule_leverage",
    "step_leverage",
    "summary",
    "upsample",
]

Floats = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
#: Height and width of each image within the square; empty if all images fill it.
Sizes = Sequence[tuple[int, int]]
#: Distances from the true boundary, in pixels, within which λ_bd95 is measured.
TAUS = (3.0, 5.0)
#: Steps that remove no more than this many percentage points of the parameters are skipped: λ divides by it.
LEAST_POINTS = 0.01

_CLIP_PERCENTILE = 5
_BOUNDARY_PERCENTILE = 95


@dataclass(frozen=True, eq=False)
class Leverage:
    """Effect of one step on the fields at one τ.

    Attributes:
        displacements: (N,) 95th percentile of the predicted displacement near each image's true boundary, in pixels;
            NaN for an image that does not count.
        changes: (N,) mean |z_B − z_A| over each image's frame; NaN for the same images.
        removed_points: ΔC, percentage points of the dense encoder's parameters.
    """

    displacements: npt.NDArray[np.float64]
    changes: npt.NDArray[np.float64]
    removed_points: float

    @property
    def images(self) -> int:
        """Return how many images count."""
        return int(np.isfinite(self.displacements).sum())

    @property
    def displacement_p95(self) -> float:
        """Return the mean over the images that count, in pixels; NaN if none does."""
        return float(np.nanmean(self.displacements)) if self.images else float("nan")

    @property
    def logit_change(self) -> float:
        """Return the mean over the images that count; NaN if none does."""
        return float(np.nanmean(self.changes)) if self.images else float("nan")

    @property
    def skipped(self) -> bool:
        """Return whether ΔC is too small for λ (`LEAST_POINTS`)."""
        return self.removed_points <= LEAST_POINTS

    @property
    def lambda_bd95(self) -> float:
        """Return λ_bd95 in pixels per percentage point (8.1); NaN for a skipped step."""
        return float("nan") if self.skipped else self.displacement_p95 / self.removed_points

    @property
    def lambda_reg(self) -> float:
        """Return λ_reg in logits per percentage point (8.2); NaN for a skipped step."""
        return float("nan") if self.skipped else self.logit_change / self.removed_points


def upsample(logits: Floats, side: int, inner: tuple[int, int] | None = None) -> Floats:
    """Upsample low-resolution logits (N, low, low) to float32 (N, side, side).

    The interpolation is bilinear with align_corners=False. With `inner`, the result is cut to this height and width.
    """
    fields = torch.from_numpy(np.asarray(logits, dtype=np.float32))[:, None]
    full: Floats = F.interpolate(fields, size=(side, side), mode="bilinear", align_corners=False)[:, 0].numpy()
    return full if inner is None else full[:, : inner[0], : inner[1]]


def gradient_magnitude(field: Floats) -> Floats:
    """Return |∇z| by the Sobel operator over 8, in logits per pixel.

    Input and output are (H, W) or (N, H, W). The frame's edge pixels are repeated outwards, so the slope across the
    edge counts half there.
    """
    z = _floats(field)
    padded = np.pad(z, [(0, 0)] * (z.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    # (…, H + 2, W + 2) smoothed along one axis, then differenced along the other -> (…, H, W)
    columns = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    across = columns[..., 2:] - columns[..., :-2]
    down = rows[..., 2:, :] - rows[..., :-2, :]
    magnitude: Floats = np.hypot(across, down) / 8
    return magnitude


def displacement(z_a: Floats, z_b: Floats) -> Floats:
    """Predict the shift of the level sets in pixels, (H, W) or (N, H, W).

    It is |z_B − z_A| / max(|∇z_A|, clip). clip is the 5th percentile (linear) of each image's positive |∇z_A|,
    because first order says nothing about a flat field. A constant z_A has no level set, so its displacements are
    NaN.
    """
    start, end = _floats(z_a), _floats(z_b)
    gradient = gradient_magnitude(start)
    clips = np.array([_clip(image) for image in gradient.reshape(-1, *gradient.shape[-2:])], dtype=gradient.dtype)
    # (N,) -> (N, 1, 1), or (1, 1) for a single field
    limit = clips.reshape(*gradient.shape[:-2], 1, 1)
    moved: Floats = np.abs(end - start) / np.maximum(gradient, limit)
    return moved


def boundary_zone(mask: npt.ArrayLike, tau: float) -> Bools:
    """Return the pixels at most `tau` away from a true surface pixel.

    Distances are Euclidean, from centre to centre. The surface is that of HD95 (7.2). An empty mask has an empty
    zone.

    Args:
        mask: True mask in the frame of the fields, (H, W) or (N, H, W), 1 inside the object.
        tau: Distance in pixels.

    Returns:
        bool, the shape of `mask`.
    """
    masks = np.asarray(mask) == 1
    zone: Bools = np.zeros_like(masks)
    height, width = masks.shape[-2:]
    for one, near in zip(masks.reshape(-1, height, width), zone.reshape(-1, height, width), strict=True):
        if one.any():
            distance: Any = distance_transform_edt(~surface(one))
            near[:] = distance <= tau
    return zone


def step_leverage(
    z_a: Floats, z_b: Floats, zones: Mapping[float, Bools], removed_points: float, inner: Sizes = ()
) -> dict[float, Leverage]:
    """Return the leverage of one step at each τ.

    Args:
        z_a: Low-resolution logits before, (N, low, low).
        z_b: Low-resolution logits after, (N, low, low).
        zones: `boundary_zone` of the true masks in the model's square, (N, S, S), by τ.
        removed_points: ΔC of the step, percentage points of the dense encoder's parameters.
        inner: Sizes of the images within the square.
    """
    values = {tau: np.full((2, len(z_a)), np.nan) for tau in zones}
    (side,) = {zone.shape[-1] for zone in zones.values()}
    for index, (low_a, low_b) in enumerate(zip(z_a, z_b, strict=True)):
        height, width = inner[index] if inner else (side, side)
        fields = _moved(low_a, low_b, side, (height, width))
        if fields is None:
            continue
        moved, change = fields
        for tau, zone in zones.items():
            near = moved[zone[index, :height, :width]]
            if near.size:
                values[tau][:, index] = np.percentile(near, _BOUNDARY_PERCENTILE), change
    return {tau: Leverage(near, change, removed_points) for tau, (near, change) in values.items()}


def boundary_displacement(z_a: Floats, z_b: Floats, zone: Bools, inner: Sizes = ()) -> npt.NDArray[np.float64]:
    """Predict the displacement of each image's boundary in pixels.

    The displacement is the 95th percentile within the image's zone.

    Args:
        z_a: Low-resolution logits before, (N, low, low).
        z_b: Low-resolution logits after, (N, low, low).
        zone: As `boundary_zone` returns it, (N, S, S).
        inner: Sizes of the images within the square.

    Returns:
        (N,), NaN for an image that does not count.
    """
    # the displacement does not depend on ΔC
    return step_leverage(z_a, z_b, {0.0: zone}, 1.0, inner)[0.0].displacements


def _moved(low_a: Floats, low_b: Floats, side: int, inner: tuple[int, int]) -> tuple[Floats, float] | None:
    """Return displacements, of shape `inner`, and mean |z_B − z_A| of one image.

    The result is None if they are undefined. One image at a time, because the upsampled fields of all would fill
    gigabytes at S = 1024.
    """
    # the cells between which the image is interpolated, before upsampling leaves rounding errors in a constant
    height, width = (math.ceil((pixels - 0.5) * len(low_a) / side - 0.5) + 1 for pixels in inner)
    if not np.isfinite([low_a, low_b]).all() or np.ptp(low_a[:height, :width]) == 0:
        return None
    a, b = upsample(np.stack([low_a, low_b]), side, inner)
    return displacement(a, b), float(np.mean(np.abs(b - a), dtype=np.float64))


def schedule_leverage(
    z_dense: Floats,
    z_pruned: Floats,
    masks: npt.ArrayLike,
    removed_points: float,
    tau: float = TAUS[0],
    inner: Sizes = (),
) -> dict[str, float]:
    """Return the leverage of one whole schedule, dense → pruned before recovery.

    It costs one evaluation.

    Args:
        z_dense: Low-resolution logits of the dense model, (N, low, low).
        z_pruned: Low-resolution logits of the pruned model for the same images.
        masks: True masks in the model's square, (N, S, S), nonzero inside the object.
        removed_points: Percentage points of the dense encoder's parameters that the schedule removes.
        tau: Distance from the true boundary in pixels.
        inner: Sizes of the images within the square.

    Returns:
        `leverage_bd95` (pixels a point), `leverage_reg` (logits a point) and `leverage_displacement_p95` (pixels),
        means over images. The first two are NaN if the schedule removes at most `LEAST_POINTS`, all three if no image
        counts.
    """
    whole = step_leverage(z_dense, z_pruned, {tau: boundary_zone(masks, tau)}, removed_points, inner)[tau]
    return {
        "leverage_bd95": whole.lambda_bd95,
        "leverage_reg": whole.lambda_reg,
        "leverage_displacement_p95": whole.displacement_p95,
    }


def _clip(gradient: Floats) -> float:
    positive = gradient[gradient > 0]
    return float(np.percentile(positive, _CLIP_PERCENTILE)) if positive.size else float("nan")


def _floats(field: npt.ArrayLike) -> Floats:
    """Turn half precision and integers into float32; float64 stays.

    Gradients are small differences, which half precision would lose.
    """
    values = np.asarray(field)
    return values if values.dtype == np.float64 else values.astype(np.float32)
