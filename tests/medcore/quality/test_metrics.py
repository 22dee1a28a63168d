"""Metrics against pixel lists, naive loops on the full frame, MONAI where definitions agree, and on paper."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from medcore.quality import metrics
from medcore.quality.catalogue import metrics as all_entries
from medcore.quality.surfaces import nearest

Mask = npt.NDArray[np.bool_]

#: MONAI warns about an argument that it passes to itself.
pytestmark = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")


def random_mask(rng: np.random.Generator, height: int, width: int) -> Mask:
    """Empty, full, one pixel, rectangle, noise, or blobs; each but the first two may touch the frame."""
    kind = rng.integers(8)
    mask = np.zeros((height, width), dtype=bool)
    if kind == 1:
        mask[:] = True
    elif kind == 2:
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == 3:
        top, left = rng.integers(height), rng.integers(width)
        mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    elif kind == 4:
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.9])
    elif kind == 5:
        mask[rng.choice([0, height - 1]), :] = True
    elif kind > 5:
        noise = ndimage.gaussian_filter(rng.standard_normal((height, width)), 3)
        mask = noise > np.quantile(noise, 0.7)
    return mask


def random_pairs(count: int, seed: int, largest: int = 28) -> Iterator[tuple[Mask, Mask]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = rng.integers(1, largest, size=2)
        yield random_mask(rng, height, width), random_mask(rng, height, width)


def neighbours(mask: Mask, row: int, column: int, radius: int) -> list[bool]:
    """The square around a pixel, with background outside the frame."""
    inside = range(mask.shape[0]), range(mask.shape[1])
    return [
        bool(mask[r, c]) if r in inside[0] and c in inside[1] else False
        for r in range(row - radius, row + radius + 1)
        for c in range(column - radius, column + radius + 1)
    ]


def brute_surface(mask: Mask) -> list[tuple[int, int]]:
    return [(r, c) for r, c in zip(*np.nonzero(mask), strict=True) if not all(neighbours(mask, r, c, 1))]


def brute_elements(mask: Mask) -> list[tuple[int, int, float]]:
    """(row, column, length) of each corner of the frame's pixels that object and background share."""
    elements = []
    for row in range(mask.shape[0] + 1):
        for column in range(mask.shape[1] + 1):
            corner = [
                (r, c)
                for r in (row - 1, row)
                for c in (column - 1, column)
                if 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c]
            ]
            if len(corner) in (1, 3):
                elements.append((row, column, math.sqrt(0.5)))
            elif len(corner) == 2:
                (r0, c0), (r1, c1) = corner
                across = r0 != r1 and c0 != c1
                elements.append((row, column, math.sqrt(2) if across else 1.0))
    return elements


def brute_distance_metrics(a: Mask, b: Mask, tolerance: float) -> dict[str, float]:
    if not a.any() or not b.any():
        same = a.any() == b.any()
        worst = 0.0 if same else float(max(a.shape))
        return {"hd95": worst, "assd": worst, "nsd": float(same)}
    table = cdist(brute_surface(a), brute_surface(b))
    to_b, to_a = table.min(axis=1), table.min(axis=0)
    ea, eb = np.array(brute_elements(a)), np.array(brute_elements(b))
    table = cdist(ea[:, :2], eb[:, :2])
    within = ea[table.min(axis=1) <= tolerance, 2].sum() + eb[table.min(axis=0) <= tolerance, 2].sum()
    return {
        "hd95": max(np.percentile(to_b, 95), np.percentile(to_a, 95)),
        "assd": np.concatenate([to_b, to_a]).mean(),
        "nsd": within / (ea[:, 2].sum() + eb[:, 2].sum()),
    }


def full_frame_boundary_f1(a: Mask, b: Mask, radius: int) -> float:
    square = np.ones((2 * radius + 1,) * 2, dtype=bool)

    def dilate(mask: Mask) -> Mask:
        return ndimage.binary_dilation(mask, square)

    if not a.any() or not b.any():
        return float(a.any() == b.any())
    bands = [dilate(mask) & ~ndimage.binary_erosion(mask, square, border_value=0) for mask in (a, b)]
    precision = (bands[0] & dilate(bands[1])).sum() / bands[0].sum()
    recall = (bands[1] & dilate(bands[0])).sum() / bands[1].sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_all_metrics_equal_brute_force() -> None:
    """200 pairs, among them empty, full-frame, single-pixel and frame-touching masks, and tiny frames."""
    for a, b in random_pairs(200, seed=0):
        overlap, total = (a & b).sum(), a.sum() + b.sum()
        expected = {
            "dice": 2 * overlap / total if total else 1.0,
            "iou": overlap / (total - overlap) if total else 1.0,
            "boundary_f1": full_frame_boundary_f1(a, b, 2),
            **brute_distance_metrics(a, b, 2.0),
        }
        assert metrics.all_metrics(a, b) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_single_functions_equal_all_metrics() -> None:
    for a, b in random_pairs(60, seed=1):
        together = metrics.all_metrics(a, b)
        alone = {name: getattr(metrics, name)(a, b) for name in together}
        assert alone == together
        assert all(type(value) is float for value in together.values())


def test_other_radii_and_tolerances() -> None:
    for a, b in random_pairs(60, seed=2):
        for radius in (1, 3):
            expected = full_frame_boundary_f1(a, b, radius)
            assert metrics.boundary_f1(a, b, radius) == pytest.approx(expected, rel=1e-12)
        for tolerance in (0.0, 1.0, 3.5):
            expected = brute_distance_metrics(a, b, tolerance)["nsd"]
            assert metrics.nsd(a, b, tolerance) == pytest.approx(expected, rel=1e-12)


def test_crop_changes_nothing() -> None:
    """Any margin, up to the full frame, gives the same bits."""
    for a, b in random_pairs(200, seed=3):
        results = set()
        for margin in (metrics.BAND_RADIUS, 5, 100):
            pair = metrics.MaskPair(a, b, margin)
            values = {metric.name: metric.function(pair) for metric in all_entries() if not metric.needs_spacing}
            results.add(tuple(round(value, 12) if name in ("assd", "nsd") else value for name, value in values.items()))
        assert len(results) == 1


def test_tree_and_map_agree() -> None:
    """Sparse surfaces are searched in a tree, dense ones on a distance map; both must give the same."""
    rng = np.random.default_rng(4)
    for density in (0.01, 0.12, 0.13, 0.6):
        sources, targets = rng.random((2, 40, 50)) < density
        expected = cdist(np.argwhere(sources), np.argwhere(targets)).min(axis=1)
        np.testing.assert_allclose(nearest(sources, targets), expected, rtol=1e-14)


def test_metrics_are_symmetric_and_know_a_perfect_match() -> None:
    perfect = {"dice": 1.0, "iou": 1.0, "boundary_f1": 1.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    for a, b in random_pairs(60, seed=5):
        assert metrics.all_metrics(a, b) == pytest.approx(metrics.all_metrics(b, a), rel=1e-12)
        assert metrics.all_metrics(a, a) == perfect


def batch(mask: Mask) -> torch.Tensor:
    return torch.tensor(mask)[None, None].float()


def test_nsd_equals_monai_subvoxel() -> None:
    from monai.metrics import compute_surface_dice  # imports for seconds, and each process of the suite would wait

    checked = 0
    for a, b in random_pairs(80, seed=6):
        if a.any() and b.any():
            options = {"class_thresholds": [2.0], "include_background": True, "use_subvoxels": True}
            # A frame of background keeps the contour along the frame, which MONAI would leave out.
            theirs = compute_surface_dice(batch(np.pad(a, 2)), batch(np.pad(b, 2)), spacing=[1.0, 1.0], **options)
            assert metrics.nsd(a, b) == pytest.approx(theirs.item(), rel=1e-6)
            checked += 1
    assert checked > 50


def test_hd95_and_assd_equal_monai_on_rectangles() -> None:
    """On axis-aligned rectangles erosion by the cross (MONAI) and by the square (ours) leave one surface."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(7)
    for _ in range(40):
        a, b = np.zeros((2, 40, 50), dtype=bool)
        for mask in (a, b):
            (top, left), (height, width) = rng.integers(0, 30, size=2), rng.integers(1, 25, size=2)
            mask[top : top + height, left : left + width] = True
        theirs = compute_hausdorff_distance(batch(a), batch(b), include_background=True, percentile=95)
        assert metrics.hd95(a, b) == pytest.approx(theirs.item(), rel=1e-5)
        theirs = compute_average_surface_distance(batch(a), batch(b), include_background=True, symmetric=True)
        assert metrics.assd(a, b) == pytest.approx(theirs.item(), rel=1e-5)


def test_on_paper() -> None:
    a, b = np.zeros((2, 12, 20), dtype=bool)
    a[5, 3], b[5, 13] = True, True
    assert metrics.hd95(a, b) == metrics.assd(a, b) == 10
    assert metrics.boundary_f1(a, b) == metrics.nsd(a, b) == metrics.dice(a, b) == metrics.iou(a, b) == 0
    b[:] = False
    b[5, 3:5] = True
    # One pixel next to a domino: the contours (4 and 6 corners of ½√2 and two of 1) lie at most 1 apart.
    assert metrics.dice(a, b) == pytest.approx(2 / 3)
    assert metrics.iou(a, b) == 0.5
    assert metrics.assd(a, b) == pytest.approx(1 / 3)
    assert metrics.hd95(a, b) == pytest.approx(0.95)
    assert metrics.nsd(a, b, 1.0) == 1
    total = 4 * math.sqrt(0.5) + 4 * math.sqrt(0.5) + 2
    common = 4 * math.sqrt(0.5) + 2 * math.sqrt(0.5) + 2
    assert metrics.nsd(a, b, 0.0) == pytest.approx(common / total)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (30, 40)])
def test_empty_masks(shape: tuple[int, int]) -> None:
    empty, full = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    perfect = {"dice": 1, "iou": 1, "boundary_f1": 1, "hd95": 0, "assd": 0, "nsd": 1}
    assert metrics.all_metrics(empty, empty) == perfect
    missed = {"dice": 0, "iou": 0, "boundary_f1": 0, "hd95": max(shape), "assd": max(shape), "nsd": 0}
    assert metrics.all_metrics(empty, full) == metrics.all_metrics(full, empty) == missed


def test_outside_of_the_frame_is_background() -> None:
    """A full frame has its rim as surface: against its own inside, shrunk by 3, every rim pixel is 3 away."""
    full = np.ones((30, 30), dtype=bool)
    inner = np.pad(np.ones((24, 24), dtype=bool), 3)
    assert metrics.assd(full, inner) == pytest.approx(brute_distance_metrics(full, inner, 2)["assd"])
    assert metrics.hd95(inner, full) >= 3
    assert metrics.nsd(full, inner) == 0


def test_masks_of_other_types_and_wrong_shapes() -> None:
    a, b = next(pair for pair in random_pairs(20, seed=8) if pair[0].any())
    assert metrics.all_metrics(a.astype(np.uint8), b.astype(np.uint8) * 255) == metrics.all_metrics(a, b)
    view = np.asfortranarray(a)
    view.flags.writeable = False
    assert metrics.all_metrics(view, b) == metrics.all_metrics(a, b)
    with pytest.raises(ValueError, match="one frame"):
        metrics.all_metrics(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="one frame"):
        metrics.dice(np.zeros(3), np.zeros(3))
