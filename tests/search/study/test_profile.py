"""The second-order profile of a study: in shards, resumed, done once. `test_scoring.py` has one on Ray's workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, DataError
from medcore.scoring.moments import profile_sums, spread
from medcore.scoring.profile import Profile, build_profile
from search.base.config import Config, load_config
from search.commands.sections import profile_job
from search.study.inputs import adapted_model, calibration_images
from search.study.profile import ProfileJob, profile_path, study_profile
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(write_tiny_study(tmp_path_factory.mktemp("study"), scoring={"part_size": 2}))


@pytest.fixture(scope="module")
def images(config: Config) -> ImageSet:
    return calibration_images(config.datasets, TINY.img_size)


def job_in(folder: Path, config: Config, images: ImageSet) -> ProfileJob:
    """The job with an output folder of its own, on six images with the metric of three."""
    job = profile_job(config.model_copy(update={"output": folder}), images)
    return replace(job, images=6, metric_images=3)


def assert_equal_profiles(one: Profile, other: Profile) -> None:
    """Bit for bit."""
    assert one.meta == other.meta
    for mine, theirs in zip((*one.orders, *one.curves), (*other.orders, *other.curves), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_shards_give_the_profile_of_all_images(config: Config, images: ImageSet, tmp_path: Path) -> None:
    job, model = job_in(tmp_path, config, images), adapted_model(config.model)
    found = study_profile(job)
    assert [file.suffix for file in sorted(job.cache.iterdir())] == [".lock", ".safetensors"]
    assert (found.meta["images"], found.meta["metric_images"]) == (6, 3)
    indices = spread(len(images), 6)
    whole = build_profile(model, profile_sums(model, images, indices, indices[::2], config.seed))
    for mine, theirs in zip(found.curves, whole.curves, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6 * theirs[0])


def test_interrupted_job_continues(config: Config, images: ImageSet, tmp_path: Path) -> None:
    whole = study_profile(job_in(tmp_path / "whole", config, images))

    def stop(done: int, total: int) -> None:
        if done > 2:
            raise KeyboardInterrupt

    again = job_in(tmp_path / "again", config, images)
    with pytest.raises(KeyboardInterrupt):
        study_profile(again, stop)
    (folder,) = again.cache.glob("*.parts")
    assert [file.name for file in folder.iterdir()] == ["0000.safetensors"]
    calls: list[tuple[int, int]] = []
    assert_equal_profiles(study_profile(again, lambda done, total: calls.append((done, total))), whole)
    assert calls == [(3, 6), (4, 6), (5, 6), (6, 6)] and not folder.exists()
    # a third study finds the file
    calls.clear()
    assert_equal_profiles(study_profile(again, lambda done, total: calls.append((done, total))), whole)
    assert not calls


def test_the_file_is_named_by_its_inputs(config: Config, images: ImageSet, tmp_path: Path) -> None:
    job = job_in(tmp_path, config, images)
    others = [replace(job, seed=1), replace(job, images=5), replace(job, metric_images=2), replace(job, shard_size=3)]
    others.append(replace(job, calibration=images.subset(range(5))))
    assert len({profile_path(each) for each in (job, *others)}) == 6
    assert profile_path(replace(job, resources=replace(job.resources, cpu=2))) == profile_path(job)


def test_wrong_inputs(config: Config, images: ImageSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = job_in(tmp_path, config, images)
    for wrong in (replace(job, calibration=images.subset([])), replace(job, metric_images=0)):
        with pytest.raises(DataError, match="needs at least one image"):
            study_profile(wrong)
    broken = images.subset(None)
    broken.boxes[0] = np.nan
    study_profile(replace(job, calibration=broken))
    assert f"1 images have non-finite values: {broken.names[0]}" in caplog.text
    profile_path(job).write_bytes(b"half")
    with pytest.raises(CheckpointError, match="not a readable second-order profile"):
        study_profile(job)
