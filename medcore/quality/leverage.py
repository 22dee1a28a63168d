"""Boundary leverage: how far removing one per cent of the encoder moves the mask's edge (method §8).

A level set {z = 0} that meets a small change δz shifts by |δz| / |∇z| pixels, to first order. Logit fields are
handled in the model's frame: the low-resolution logits, upsampled bilinearly (align_corners=False) to the square of
side S in which images and true masks lie. So ∇z, τ and displacements are in pixels of that square, not of the
original image.

One step A → B removes ΔC percentage points of the dense encoder's parameters. For each image λ_bd95 is the 95th
percentile, near the true boundary, of the predicted displacement, over ΔC; λ_reg is the mean over the whole frame of
|z_B − z_A|, over ΔC. A step's value is the mean over images; `summary` takes medians over steps.

An image counts in neither λ where the displacement is undefined: its true mask is empty, z_A is constant (no level
set to move), or a logit is not finite. `images` says how many did count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_erosion, distance_transform_edt

from medcore.quality.leverage_grid import (
    HEAD_SPARSITIES,
    MLP_SPARSITIES,
    GridStep,
    Point,
    grid_points,
    grid_steps,
    summary,
)

__all__ = [
    "HEAD_SPARSITIES",
    "LEAST_POINTS",
    "MLP_SPARSITIES",
    "TAUS",
    "GridStep",
    "Leverage",
    "Point",
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
#: Distances from the true boundary within which λ_bd95 looks, in pixels.
TAUS = (3.0, 5.0)
#: Steps that remove no more than this many percentage points of the parameters are skipped: λ divides by it.
LEAST_POINTS = 0.01

_CLIP_PERCENTILE = 5
_BOUNDARY_PERCENTILE = 95


@dataclass(frozen=True, eq=False)
class Leverage:
    """What one step does to the fields at one τ.

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
        """How many images count."""
        return int(np.isfinite(self.displacements).sum())

    @property
    def displacement_p95(self) -> float:
        """Mean over the images that count, in pixels; NaN where none does."""
        return float(np.nanmean(self.displacements)) if self.images else float("nan")

    @property
    def logit_change(self) -> float:
        """Mean over the images that count; NaN where none does."""
        return float(np.nanmean(self.changes)) if self.images else float("nan")

    @property
    def skipped(self) -> bool:
        """Whether ΔC is too small for λ (`LEAST_POINTS`)."""
        return self.removed_points <= LEAST_POINTS

    @property
    def lambda_bd95(self) -> float:
        """Pixels per percentage point; NaN for a skipped step."""
        return float("nan") if self.skipped else self.displacement_p95 / self.removed_points

    @property
    def lambda_reg(self) -> float:
        """Logits per percentage point; NaN for a skipped step."""
        return float("nan") if self.skipped else self.logit_change / self.removed_points


def upsample(logits: Floats, side: int) -> Floats:
    """Low-resolution logits (N, low, low) -> float32 (N, side, side), bilinear with align_corners=False."""
    fields = torch.from_numpy(np.asarray(logits, dtype=np.float32))[:, None]
    full: Floats = F.interpolate(fields, size=(side, side), mode="bilinear", align_corners=False)[:, 0].numpy()
    return full


def gradient_magnitude(field: Floats) -> Floats:
    """|∇z| by the Sobel operator over 8, in logits per pixel; (H, W) or (N, H, W) in and out.

    The frame's edge pixels are repeated outwards, so the slope across the edge counts half there.
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
    """Predicted shift of the level sets, |z_B − z_A| / max(|∇z_A|, clip), in pixels; (H, W) or (N, H, W).

    clip is the 5th percentile (linear) of each image's positive |∇z_A|: where the field is flat, first order says
    nothing. A constant z_A has no level set, its displacements are NaN.
    """
    start, end = _floats(z_a), _floats(z_b)
    gradient = gradient_magnitude(start)
    clips = np.array([_clip(image) for image in gradient.reshape(-1, *gradient.shape[-2:])], dtype=gradient.dtype)
    # (N,) -> (N, 1, 1), or (1, 1) for a single field
    limit = clips.reshape(*gradient.shape[:-2], 1, 1)
    moved: Floats = np.abs(end - start) / np.maximum(gradient, limit)
    return moved


def boundary_zone(mask: npt.ArrayLike, tau: float) -> Bools:
    """Pixels whose centre lies at most `tau` pixels (Euclidean) from the centre of a true surface pixel.

    The surface is that of HD95 (method §7), m ∧ ¬erode(m) with a 3×3 square and background outside the frame: the
    outermost pixels of the object. An empty mask has an empty zone.

    Args:
        mask: true mask in the frame of the fields, (H, W) or (N, H, W), nonzero inside the object.

    Returns: bool, the shape of `mask`.
    """
    masks = np.asarray(mask) != 0
    zone: Bools = np.zeros_like(masks)
    height, width = masks.shape[-2:]
    for one, near in zip(masks.reshape(-1, height, width), zone.reshape(-1, height, width), strict=True):
        if one.any():
            surface = one & ~binary_erosion(one, structure=np.ones((3, 3), dtype=bool))
            distance: Any = distance_transform_edt(~surface)
            near[:] = distance <= tau
    return zone


def step_leverage(
    z_a: Floats, z_b: Floats, zones: Mapping[float, Bools], removed_points: float
) -> dict[float, Leverage]:
    """Leverage of one step at each τ.

    Args:
        z_a, z_b: low-resolution logits before and after, (N, low, low).
        zones: `boundary_zone` of the true masks in the model's square, (N, S, S), by τ.
        removed_points: ΔC of the step, percentage points of the dense encoder's parameters.
    """
    values = {tau: np.full((2, len(z_a)), np.nan) for tau in zones}
    (side,) = {zone.shape[-1] for zone in zones.values()}
    for index, (low_a, low_b) in enumerate(zip(z_a, z_b, strict=True)):
        fields = _moved(low_a, low_b, side)
        if fields is None:
            continue
        moved, change = fields
        for tau, zone in zones.items():
            near = moved[zone[index]]
            if near.size:
                values[tau][:, index] = np.percentile(near, _BOUNDARY_PERCENTILE), change
    return {tau: Leverage(found[0], found[1], removed_points) for tau, found in values.items()}


def boundary_displacement(z_a: Floats, z_b: Floats, zone: Bools) -> npt.NDArray[np.float64]:
    """Predicted displacement of each image's boundary, in pixels: the 95th percentile within its zone.

    Args:
        z_a, z_b: low-resolution logits before and after, (N, low, low). zone: see `boundary_zone`, (N, S, S).

    Returns: (N,), NaN for an image that does not count.
    """
    found = np.full(len(z_a), np.nan)
    for index, (low_a, low_b) in enumerate(zip(z_a, z_b, strict=True)):
        fields = _moved(low_a, low_b, zone.shape[-1])
        if fields is not None and zone[index].any():
            found[index] = np.percentile(fields[0][zone[index]], _BOUNDARY_PERCENTILE)
    return found


def _moved(low_a: Floats, low_b: Floats, side: int) -> tuple[Floats, float] | None:
    """Predicted displacements (side, side) and mean |z_B − z_A| of one image; None where they are undefined.

    One image at a time: the upsampled fields of all would fill gigabytes at S = 1024.
    """
    # told from the logits as they are, for upsampling leaves rounding errors in a constant
    if not np.isfinite([low_a, low_b]).all() or np.ptp(low_a) == 0:
        return None
    a, b = upsample(np.stack([low_a, low_b]), side)
    return displacement(a, b), float(np.mean(np.abs(b - a), dtype=np.float64))


def schedule_leverage(
    z_dense: Floats, z_pruned: Floats, masks: npt.ArrayLike, removed_points: float, tau: float = TAUS[0]
) -> dict[str, float]:
    """Leverage of one whole schedule, dense → pruned before recovery: a predictor that costs one evaluation.

    Args:
        z_dense, z_pruned: low-resolution logits of the same images, (N, low, low).
        masks: true masks in the model's square, (N, S, S), nonzero inside the object.
        removed_points: percentage points of the dense encoder's parameters that the schedule removes.

    Returns: `leverage_bd95` (pixels a point), `leverage_reg` (logits a point) and `leverage_displacement_p95`
        (pixels), means over images. The first two are NaN where nothing was removed (at most `LEAST_POINTS`), all
        three where no image counts.
    """
    whole = step_leverage(z_dense, z_pruned, {tau: boundary_zone(masks, tau)}, removed_points)[tau]
    return {
        "leverage_bd95": whole.lambda_bd95,
        "leverage_reg": whole.lambda_reg,
        "leverage_displacement_p95": whole.displacement_p95,
    }


def _clip(gradient: Floats) -> float:
    positive = gradient[gradient > 0]
    return float(np.percentile(positive, _CLIP_PERCENTILE)) if positive.size else float("nan")


def _floats(field: npt.ArrayLike) -> Floats:
    """Half precision and integers become float32, float64 stays: gradients are small differences."""
    values = np.asarray(field)
    return values if values.dtype == np.float64 else values.astype(np.float32)
