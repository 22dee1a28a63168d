"""Claim: all six metrics of a pair of masks cost a few milliseconds, a fraction of the usual implementations.

Three ways on the same pairs in the same process, one thread, in turns; the best of several rounds counts:
- ours: `medcore.quality.metrics.all_metrics`, on the bounding box of both masks;
- full frame: the same definitions with scipy.ndimage on the whole frame, one distance map per direction and
  surface (results are checked against ours);
- MONAI: Dice, IoU, HD95, ASSD and sub-voxel NSD, each by its own function (no boundary F1; its surfaces are
  thinner, so only speed is compared).

Run: python -m benchmarks.metrics_speed [--sizes 256 512 --pairs 20 --rounds 5 --out table.csv]
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter

from medcore.quality.metrics import all_metrics

Mask = npt.NDArray[np.bool_]
Pair = tuple[Mask, Mask]
KINDS = ("object", "large object", "noise")


def make_pair(kind: str, size: int, rng: np.random.Generator) -> Pair:
    """A prediction and a truth of 3 % ("object") or 40 % of the frame with another outline, or noise."""
    rows, columns = np.mgrid[:size, :size] / size
    share = 0.03 if kind == "object" else 0.4
    radius = math.sqrt(share / math.pi)
    centre = rng.uniform(min(radius, 0.45), 1 - min(radius, 0.45), size=2)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    wobble = gaussian_filter(rng.standard_normal((2, size, size)), (0, size / 16, size / 16))
    wobble *= 0.1 * radius / wobble.std()
    truth, prediction = distance + wobble < radius
    if kind == "noise":
        prediction = rng.random((size, size)) < 0.3
    return prediction, truth


def full_frame(a: Mask, b: Mask) -> dict[str, float]:
    """Method §7 written plainly for two masks that are not empty."""
    inside, both = np.ones((3, 3), dtype=bool), (a & b).sum()
    square = np.ones((5, 5), dtype=bool)
    band_a, band_b = (binary_dilation(m, square) & ~binary_erosion(m, square) for m in (a, b))
    precision = (band_a & binary_dilation(band_b, square)).sum() / band_a.sum()
    recall = (band_b & binary_dilation(band_a, square)).sum() / band_b.sum()
    surface_a, surface_b = (m & ~binary_erosion(m, inside) for m in (a, b))
    to_b = distance_transform_edt(~surface_b)[surface_a]
    to_a = distance_transform_edt(~surface_a)[surface_b]
    length_a, length_b = contour_lengths(a), contour_lengths(b)
    near_a = length_a[(distance_transform_edt(length_b == 0) <= 2) & (length_a > 0)].sum()
    near_b = length_b[(distance_transform_edt(length_a == 0) <= 2) & (length_b > 0)].sum()
    return {
        "dice": 2 * both / (a.sum() + b.sum()),
        "iou": both / (a | b).sum(),
        "boundary_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "hd95": max(np.percentile(to_a, 95), np.percentile(to_b, 95)),
        "assd": np.concatenate([to_a, to_b]).mean(),
        "nsd": (near_a + near_b) / (length_a.sum() + length_b.sum()),
    }


def contour_lengths(mask: Mask) -> npt.NDArray[np.float64]:
    """Length of contour in each 2×2 neighbourhood, from its pixel count and whether two pixels lie across."""
    m = np.pad(mask, 1).astype(int)
    corners = m[:-1, :-1], m[:-1, 1:], m[1:, :-1], m[1:, 1:]
    count, diagonal = sum(corners), corners[0] + corners[3]
    across = (count == 2) & (diagonal != 1)
    return np.where(across, math.sqrt(2), np.where(count == 2, 1.0, (count % 2) * math.sqrt(0.5)))


def monai(a: Mask, b: Mask) -> dict[str, float]:
    """The five that MONAI has, each by its own function, as its users call them."""
    x, y = (torch.from_numpy(m)[None, None] for m in (a, b))
    surface = {"include_background": True}
    return {
        "dice": compute_dice(x, y).item(),
        "iou": compute_iou(x, y).item(),
        "hd95": compute_hausdorff_distance(x, y, percentile=95, **surface).item(),
        "assd": compute_average_surface_distance(x, y, symmetric=True, **surface).item(),
        "nsd": compute_surface_dice(x, y, [2.0], spacing=[1.0, 1.0], use_subvoxels=True, **surface).item(),
    }


def best_ms(functions: list[Callable[[Mask, Mask], object]], pairs: list[Pair], rounds: int) -> list[float]:
    """Milliseconds a pair, the best of `rounds`; the functions take turns so that a busy machine hits all."""
    best = [math.inf] * len(functions)
    for _ in range(rounds):
        for which, function in enumerate(functions):
            started = time.perf_counter()
            for pair in pairs:
                function(*pair)
            best[which] = min(best[which], (time.perf_counter() - started) / len(pairs) * 1e3)
    return best


def measure(size: int, kind: str, count: int, rounds: int) -> list[str]:
    """One row of the table. Raises AssertionError if the plain implementation disagrees with ours."""
    rng = np.random.default_rng(0)
    pairs = [make_pair(kind, size, rng) for _ in range(count)]
    for pair in pairs:
        ours, plain = all_metrics(*pair), full_frame(*pair)
        np.testing.assert_allclose(list(ours.values()), list(plain.values()), rtol=1e-9)
    ours_ms, plain_ms, monai_ms = best_ms([all_metrics, full_frame, monai], pairs, rounds)
    times = [f"{ms:.2f}" for ms in (ours_ms, plain_ms, monai_ms)]
    return [str(size), kind, *times, f"{plain_ms / ours_ms:.1f}", f"{monai_ms / ours_ms:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="side of the frame in pixels")
    parser.add_argument("--pairs", type=int, default=20, help="mask pairs a row")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the best counts")
    parser.add_argument("--out", type=Path, help="also write the table as CSV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    header = ["size", "kind", "ours_ms", "full_frame_ms", "monai_ms", "full_frame/ours", "monai/ours"]
    rows = []
    for size in options.sizes:
        rows += [measure(size, kind, options.pairs, options.rounds) for kind in KINDS]
    for row in [header, *rows]:
        sys.stdout.write("  ".join(cell.rjust(15) for cell in row) + "\n")
    if options.out:
        with options.out.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
