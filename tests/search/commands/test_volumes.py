"""A search on scans in each of their formats, and metrics in millimetres that equal those of the files' own spacing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from medcore.errors import ConfigError
from medcore.models.checkpoint import load
from medcore.quality.evaluate import predict_masks
from results.store.study_info import read_study_info
from results.store.trials import read_images, read_study
from search.base.config import load_config
from search.commands.open_study import describe, open_study
from search.study.inputs import search_images
from tests.support.helpers import TINY
from tests.support.image_files import image_folder
from tests.support.studies.search_here import search_here
from tests.support.studies.study_files import write_tiny_study
from tests.support.volume_files import dicom_folder, nifti_folder, npz_folder

SEARCH = {
    "trials": 3,
    "leverage_images": 0,
    "objectives": [{"name": "flops", "direction": "min"}, {"name": "hd95_mm", "direction": "min"}],
    "warm_starts": {"knapsack": [0.6], "uniform": []},
}


def study_on(place: Path, folder: Path, **sections: object) -> Path:
    data = {"folders": [str(folder)], "recovery_per_dataset": 4, **sections}
    return write_tiny_study(place, data=data, recovery={"steps": 1}, search=SEARCH, tracking={"kind": "files"})


def distances_mm(one: np.ndarray, other: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Of the surface pixels of one mask to the other's surface, on maps of the whole padded frame."""
    surfaces = [np.pad(m, 1) & ~binary_erosion(np.pad(m, 1), np.ones((3, 3))) for m in (one, other)]
    return np.asarray(distance_transform_edt(~surfaces[1], sampling=spacing))[surfaces[0]]


def hd95_of(one: np.ndarray, other: np.ndarray, spacing: tuple[float, float]) -> float:
    if not one.any() or not other.any():
        return max(one.shape[0] * spacing[0], one.shape[1] * spacing[1])
    return max(np.percentile(distances_mm(*pair, spacing), 95) for pair in ((one, other), (other, one)))


@pytest.mark.parametrize("write", [npz_folder, nifti_folder, dicom_folder])
def test_a_search_of_three_trials(write: Callable[[Path], Path], tmp_path: Path) -> None:
    config = load_config(study_on(tmp_path, write(tmp_path / "scans"), window="abdomen"))
    assert search_here(tmp_path / "tiny.yaml").complete
    trials = read_study(config.folder)
    assert len(trials) == 3 and set(trials["status"]) == {"done"}
    assert np.isfinite(trials[["hd95_mm", "assd_mm", "nsd_mm", "hd95_mm_worst"]].to_numpy(float)).all()
    images = search_images(config.datasets, TINY.img_size)
    spacing = (1.3, 0.7)  # written by the test
    sides = [max(t.shape[0] * spacing[0], t.shape[1] * spacing[1]) for t in images.truths]
    assert read_study_info(config.folder).reference["hd95_mm"] == pytest.approx(max(sides), rel=1e-6)
    kept = trials[trials["checkpoint"].notna()].iloc[0]
    masks = predict_masks(load(config.folder / kept["checkpoint"]), images, None)
    rows = read_images(config.folder).query("trial_id == @kept.trial_id").set_index("name")
    expected = [hd95_of(mask, truth, spacing) for mask, truth in zip(masks, images.truths, strict=True)]
    np.testing.assert_allclose(rows.loc[images.names, "hd95_mm"], expected, rtol=1e-6)


def test_an_objective_in_millimetres_needs_the_spacing_of_every_image(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures", [f"a{number}" for number in range(8)])
    config = load_config(study_on(tmp_path, folder)).absolute()
    images = search_images(config.datasets, TINY.img_size)
    with pytest.raises(ConfigError, match=r"hd95_mm.*spacing.*pictures"):
        open_study(config, False)
        describe(config, images)
