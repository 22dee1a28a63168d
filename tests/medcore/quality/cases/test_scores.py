"""DSC and NSD of cases against element lists, SciPy's distance maps and MONAI, and on paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial.distance import cdist

from medcore.data.formats.npz_case import Case, read_case, whole_cases
from medcore.data.readers import list_folder
from medcore.quality.cases.scores import scores_of
from medcore.quality.cases.solids import element_areas, surface_dice
from medcore.quality.metrics import nsd
from tests.support.volume_files import challenge_folder

Spacing3 = tuple[float, float, float]
pytestmark = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
CUBES = (1.0, 1.0, 1.0)


def random_solid(chance: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Empty, full, one voxel, noise, a block or blobs; each but the first may touch the border."""
    kind, mask = chance.integers(7), np.zeros(shape, bool)
    if kind == 1:
        mask[:] = True
    elif kind == 2:
        mask[tuple(chance.integers(0, shape))] = True
    elif kind == 3:
        mask = chance.random(shape) < chance.choice([0.02, 0.5, 0.9])
    elif kind == 4:
        low = chance.integers(0, shape)
        mask[tuple(slice(start, start + chance.integers(1, 9)) for start in low)] = True
    elif kind > 4:
        noise = gaussian_filter(chance.standard_normal(shape), 2)
        mask = noise > np.quantile(noise, 0.75)
    return mask


def random_pairs(count: int, seed: int, largest: int = 12) -> Iterator[tuple[np.ndarray, np.ndarray, Spacing3]]:
    chance = np.random.default_rng(seed)
    for _ in range(count):
        shape = chance.integers(1, largest, 3)
        z, y, x = map(float, chance.choice([0.4, 0.8, 1.0, 2.5, 5.0], 3) * chance.uniform(0.9, 1.1, 3))
        yield random_solid(chance, shape), random_solid(chance, shape), (z, y, x)


def monai_nsd(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """MONAI's, with an edge of background, without which it leaves the surface along the border out."""
    from monai.metrics import compute_surface_dice  # imports for seconds, and each process of the suite would wait

    one, other = (torch.tensor(np.pad(mask, 2))[None, None].float() for mask in (a, b))
    options = {"class_thresholds": [2.0], "include_background": True, "use_subvoxels": True}
    return float(compute_surface_dice(one, other, spacing=list(spacing), **options))


def test_areas_of_all_neighbourhoods_equal_monais_table() -> None:
    from monai.metrics.utils import create_table_neighbour_code_to_surface_area

    spacing = (2.0, 3.0, 5.0)
    table, kernel = create_table_neighbour_code_to_surface_area(spacing)
    for corners in product((False, True), repeat=8):
        block = np.array(corners).reshape(2, 2, 2)
        theirs = float(table[int((kernel[0, 0].numpy() * block).sum())])
        assert element_areas(block, spacing)[1, 1, 1] == pytest.approx(theirs, rel=1e-6)


def test_nsd_equals_monai() -> None:
    checked = 0
    for a, b, spacing in random_pairs(80, seed=0):
        if a.any() and b.any():
            assert surface_dice(a, b, spacing, 2.0) == pytest.approx(monai_nsd(a, b, spacing), rel=1e-5)
            checked += 1
    assert checked > 40


def test_nsd_equals_lists_of_elements_and_distance_maps() -> None:
    """Sparse surfaces are searched in a tree and dense ones on a map; a list and SciPy's map know no difference."""
    for a, b, spacing in random_pairs(120, seed=1, largest=9):
        expected = float(a.any() == b.any())
        if a.any() and b.any():
            areas = [element_areas(mask, spacing) for mask in (a, b)]
            places = [np.argwhere(each > 0) * spacing for each in areas]
            table = cdist(*places)
            near = [table.min(axis=1) <= 2.0, table.min(axis=0) <= 2.0]
            lists = sum(each[each > 0][close].sum() for each, close in zip(areas, near, strict=True))
            maps = sum(
                one[(distance_transform_edt(other == 0, sampling=spacing) <= 2.0) & (one > 0)].sum()
                for one, other in (areas, areas[::-1])
            )
            assert maps == pytest.approx(lists)
            expected = lists / sum(each.sum() for each in areas)
        assert surface_dice(a, b, spacing, 2.0) == pytest.approx(expected)
        assert surface_dice(b, a, spacing, 2.0) == pytest.approx(expected)
        assert surface_dice(a, a, spacing, 0.0) == 1


def test_areas_on_paper() -> None:
    voxel = np.ones((1, 1, 1), bool)
    # the middles of a voxel's sides span an octahedron
    assert element_areas(voxel, CUBES).sum() == pytest.approx(math.sqrt(3))
    # a large block: its six sides but for a rim that the corners cut off
    block = np.ones((20, 30, 40), bool)
    whole = 2 * (20 * 30 + 20 * 40 + 30 * 40)
    assert whole - 4 * 90 < element_areas(block, CUBES).sum() < whole
    a, b = np.zeros((2, 9, 9, 9), bool)
    a[4, 4, 4] = b[5, 4, 4] = True
    assert surface_dice(a, b, (2.0, 1.0, 1.0), 2.0) == 1
    # at a tolerance of 0 the four elements that both have count
    assert surface_dice(a, b, (2.0, 1.0, 1.0), 0.0) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one shape"):
        surface_dice(a, b[1:], CUBES, 2.0)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    listing = list_folder(challenge_folder(tmp_path_factory.mktemp("scores") / "s"))
    return {sample.name: read_case(sample) for sample in whole_cases(listing, listing.samples)[0]}


def moved(case: Case) -> np.ndarray:
    """The truth, one column to the right and two rows down, with a part of another object over the first."""
    found = np.roll(case.truth, (2, 1), axis=(1, 2))
    found[:, :, 14:18][found[:, :, 14:18] == 1] = 2
    return found


def dsc_of(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_volume_has_the_means_of_its_objects(cases: dict[str, Case]) -> None:
    case = cases["3DBox_CT_0000"]
    found = moved(case)
    masks = [(found == number, case.truth == number) for number in (1, 2, 3)]
    scores = scores_of(case, found)
    assert scores.dsc == pytest.approx(np.mean([dsc_of(*pair) for pair in masks]))
    # the file says 0.8, 0.9, 2.5 mm for x, y and z, and the challenge's script takes them for z, y and x
    assert scores.nsd == pytest.approx(np.mean([monai_nsd(*pair, (2.5, 0.9, 0.8)) for pair in masks]), rel=1e-5)
    script = np.mean([monai_nsd(*pair, (0.8, 0.9, 2.5)) for pair in masks])
    assert scores.nsd_challenge == pytest.approx(script, rel=1e-5) and scores.nsd_challenge != scores.nsd
    assert 0 < scores.nsd < 1


def test_a_picture_has_contours_and_for_the_script_a_slab(cases: dict[str, Case]) -> None:
    case = cases["2DBox_US_0000"]
    found = moved(case)
    masks = [(found == number, case.truth == number) for number in (1, 2, 3)]
    scores = scores_of(case, found)
    assert scores.nsd == pytest.approx(np.mean([nsd(one[0], other[0]) for one, other in masks]))
    slab = np.mean([monai_nsd(np.moveaxis(one, 0, -1), np.moveaxis(other, 0, -1), CUBES) for one, other in masks])
    assert scores.nsd_challenge == pytest.approx(slab, rel=1e-5) and scores.nsd_challenge != scores.nsd


def test_missed_objects_count_and_the_script_gives_bad_cases_nothing(cases: dict[str, Case]) -> None:
    case = cases["3DBox_CT_0001"]
    perfect = scores_of(case, case.truth)
    assert (perfect.dsc, perfect.nsd, perfect.nsd_challenge) == (1, 1, 1)
    scores = scores_of(case, np.where(case.truth == 2, 0, case.truth).astype(np.uint16))
    assert (scores.dsc, scores.nsd, scores.nsd_challenge) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    some = np.where(case.truth == 1, case.truth, 0).astype(np.uint16)
    some[np.nonzero(some)[0].min() + 2 :] = 0
    scores = scores_of(case, some)
    assert 0 < scores.dsc <= 0.2 and scores.nsd > 0 and scores.nsd_challenge == 0
    nothing = scores_of(case, np.zeros_like(case.truth))
    assert (nothing.dsc, nothing.nsd, nothing.nsd_challenge) == (0, 0, 0)
