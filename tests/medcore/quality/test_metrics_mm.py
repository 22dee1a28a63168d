"""Metrics in millimetres against pixel lists, SciPy's distance maps and MONAI, all with anisotropic spacings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import cdist

from medcore.quality import metrics
from medcore.quality.metrics import MaskPair, all_metrics
from results.stats.labels import axis, base_name, text
from results.stats.objectives import Objective
from search.base.objectives import reference_point
from tests.medcore.quality.test_metrics import Mask, batch, brute_elements, brute_surface, random_pairs

Spacing = tuple[float, float]
pytestmark = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")


def spaced_pairs(count: int, seed: int) -> Iterator[tuple[Mask, Mask, Spacing]]:
    """Pairs of masks with spacings from microscopy to thick slices; some are isotropic."""
    rng = np.random.default_rng(seed)
    for number, (a, b) in enumerate(random_pairs(count, seed)):
        rows, columns = map(float, rng.choice([0.05, 0.4, 0.7, 1.0, 2.5, 6.0], size=2) * rng.uniform(0.9, 1.1, 2))
        yield a, b, (rows, rows if number % 4 == 0 else columns)


def expected(a: Mask, b: Mask, spacing: Spacing) -> dict[str, float]:
    """Pixel lists scaled by the spacing; the share of the contours by a distance map of the corners."""
    if not a.any() or not b.any():
        same = a.any() == b.any()
        worst = 0.0 if same else max(a.shape[0] * spacing[0], a.shape[1] * spacing[1])
        return {"hd95_mm": worst, "assd_mm": worst, "nsd_mm": float(same)}
    table = cdist(brute_surface(a) * np.array(spacing), brute_surface(b) * np.array(spacing))
    to_b, to_a = table.min(axis=1), table.min(axis=0)
    maps = []
    for mask in (a, b):
        lengths = np.zeros(np.add(mask.shape, 1))
        for row, column, length in brute_elements(mask):
            straight = spacing[0] if _is_upright(mask, row, column) else spacing[1]
            lengths[row, column] = straight if length == 1 else length / np.sqrt(2) * np.hypot(*spacing)
        maps.append(lengths)
    within = sum(
        one[(distance_transform_edt(other == 0, sampling=spacing) <= 2) & (one > 0)].sum()
        for one, other in (maps, maps[::-1])
    )
    return {
        "hd95_mm": max(np.percentile(to_b, 95), np.percentile(to_a, 95)),
        "assd_mm": np.concatenate([to_b, to_a]).mean(),
        "nsd_mm": within / sum(lengths.sum() for lengths in maps),
    }


def _is_upright(mask: Mask, row: int, column: int) -> bool:
    """Whether the object is left or right of a corner, so that the contour runs along the column."""
    padded = np.pad(mask, 1)
    return bool(padded[row, column] == padded[row + 1, column])


def test_they_equal_pixel_lists_and_distance_maps() -> None:
    for a, b, spacing in spaced_pairs(200, seed=0):
        found = all_metrics(a, b, spacing)
        in_mm = {name: found[name] for name in ("hd95_mm", "assd_mm", "nsd_mm")}
        assert in_mm == pytest.approx(expected(a, b, spacing), rel=1e-12, abs=1e-12)
        alone = {name: getattr(metrics, name)(a, b, spacing) for name in in_mm}
        assert alone == in_mm


def test_nsd_equals_monai_with_spacing() -> None:
    from monai.metrics import compute_surface_dice

    checked = 0
    for a, b, spacing in spaced_pairs(60, seed=1):
        if a.any() and b.any():
            options = {"class_thresholds": [2.0], "include_background": True, "use_subvoxels": True}
            theirs = compute_surface_dice(batch(np.pad(a, 2)), batch(np.pad(b, 2)), spacing=list(spacing), **options)
            assert metrics.nsd_mm(a, b, spacing) == pytest.approx(theirs.item(), rel=1e-5)
            checked += 1
    assert checked > 30


def test_hd95_equals_monai_on_rectangles() -> None:
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(2)
    for _ in range(30):
        a, b = np.zeros((2, 40, 50), dtype=bool)
        for mask in (a, b):
            (top, left), (height, width) = rng.integers(0, 30, size=2), rng.integers(1, 25, size=2)
            mask[top : top + height, left : left + width] = True
        spacing = [float(side) for side in rng.uniform(0.3, 4, 2)]
        options = {"include_background": True, "percentile": 95, "spacing": spacing}
        theirs = compute_hausdorff_distance(batch(a), batch(b), **options)
        assert metrics.hd95_mm(a, b, (spacing[0], spacing[1])) == pytest.approx(theirs.item(), rel=1e-5)


def test_pixels_of_one_millimetre_change_nothing_and_figures_in_pixels_know_no_spacing() -> None:
    for a, b in random_pairs(60, seed=3):
        plain, spaced = all_metrics(a, b), all_metrics(a, b, (1.0, 1.0))
        assert (
            {name: spaced[name] for name in plain}
            == plain
            == {name: value for name, value in all_metrics(a, b, (0.3, 5.0)).items() if name in plain}
        )
        assert spaced["hd95_mm"] == plain["hd95"] and spaced["nsd_mm"] == pytest.approx(plain["nsd"], rel=1e-12)


def test_without_a_spacing_there_are_none() -> None:
    a = np.eye(4, dtype=bool)
    assert not any(name.endswith("_mm") for name in all_metrics(a, a))
    with pytest.raises(ValueError, match="spacing"):
        _ = MaskPair(a, a).distances_mm


def test_tables_and_the_reference_know_them() -> None:
    assert base_name("hd95_mm/ct") == "hd95_mm" and text("assd_mm", 1.5) == "1.5 mm"
    assert "(mm)" in axis("hd95_mm", [1.0])[1] and "lower" in axis("hd95_mm", [1.0])[1]
    objectives = [Objective("hd95_mm", "min"), Objective("nsd_mm", "max"), Objective("hd95", "min")]
    dense = {"hd95_mm": 3.0, "nsd_mm": 0.5, "hd95": 4.0}
    assert reference_point(objectives, dense, 64, 320.0) == {"hd95_mm": 320.0, "nsd_mm": 0.0, "hd95": 64.0}


def test_a_spacing_out_of_a_float32_header_scores_like_the_number_that_it_means() -> None:
    a, b = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    a[10:30, 10:20] = b[10:30, 10:25] = True  # 5 pixels of 0.4 mm apart, which is the tolerance
    plain, header = (metrics.nsd_mm(a, b, (value, value)) for value in (0.4, float(np.float32(0.4))))
    assert plain == header == 1.0
