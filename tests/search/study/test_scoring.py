"""The jobs of a study: shared out over a real Ray, resumed, done once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.scoring.criteria import mix
from medcore.scoring.job import parts
from medcore.scoring.score_table import ScoreTable
from search.base.config import Config, load_config
from search.commands.sections import profile_job, scoring_job
from search.study.inputs import calibration_images
from search.study.profile import study_profile
from search.study.scoring import ScoringJob, score_table
from tests.support.helpers import TINY
from tests.support.machines.rays import Rays
from tests.support.studies.study_files import write_tiny_study


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("study")
    return load_config(write_tiny_study(folder, scoring={"part_size": 3}))


@ray.remote(num_cpus=1)
class Busy:
    """Takes one of the two CPUs while it lives."""

    def ready(self) -> None:
        pass


@contextmanager
def workers(count: int) -> Iterator[None]:
    """One or two workers of the local Ray at once."""
    busy = [Busy.remote() for _ in range(2 - count)]
    ray.get([each.ready.remote() for each in busy])
    yield
    for each in busy:
        ray.kill(each)


def elsewhere(config: Config, images: ImageSet, folder: Path) -> ScoringJob:
    """The scoring job of the same study with an output folder of its own, so that nothing is cached."""
    return scoring_job(config.model_copy(update={"output": folder}), images)


def assert_equal_tables(one: ScoreTable, other: ScoreTable) -> None:
    """Bit for bit."""
    assert (one.datasets, one.nodes, one.families, one.meta) == (
        other.datasets,
        other.nodes,
        other.families,
        other.meta,
    )
    np.testing.assert_array_equal(one.block_fisher, other.block_fisher)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])


@pytest.mark.usefixtures("local_ray")
def test_workers_give_a_profile_too(config: Config, tmp_path: Path) -> None:
    images, calls = calibration_images(config.datasets, TINY.img_size), []
    job = profile_job(config.model_copy(update={"output": tmp_path}), images)
    found = study_profile(replace(job, images=6, metric_images=3), lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, 6) and calls[-1] == (6, 6)
    assert (found.meta["images"], found.meta["metric_images"]) == (6, 3)


@pytest.mark.usefixtures("local_ray")
def test_two_workers_give_the_bits_of_one(config: Config, tmp_path: Path, rays: Rays) -> None:
    images = calibration_images(config.datasets, TINY.img_size)
    tables, calls = [], []
    for count in (1, 2):
        with workers(count):
            job = elsewhere(config, images, tmp_path / str(count))
            table, path = score_table(job, lambda done, total: calls.append((done, total)))
        assert [file.suffix for file in sorted(path.parent.iterdir())] == [".lock", ".safetensors"]
        tables.append(table)
    assert_equal_tables(tables[1], tables[0])
    assert calls[0] == (0, 16) and calls[-1] == (16, 16)
    rays.stop()
    alone, _ = score_table(elsewhere(config, images, tmp_path / "alone"))
    # this process may use more threads, and sums over tokens then round in another order
    np.testing.assert_allclose(alone.array("reset", "channels"), tables[0].array("reset", "channels"), rtol=1e-3)


def test_interrupted_job_goes_on(config: Config, tmp_path: Path) -> None:
    """Parts that are on disk are not computed again, and the result has the same bits."""
    images = calibration_images(config.datasets, TINY.img_size)
    whole, _ = score_table(elsewhere(config, images, tmp_path / "whole"))

    def stop(done: int, total: int) -> None:
        if done >= 7:
            raise KeyboardInterrupt

    again = elsewhere(config, images, tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        score_table(again, stop)
    folder = next((tmp_path / "again" / "cache").glob("*.parts"))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert 1 <= len(before) < len(parts(images, 3))
    calls: list[tuple[int, int]] = []
    table, _ = score_table(again, lambda done, total: calls.append((done, total)))
    assert calls[0][0] > 3 and calls[-1] == (16, 16)
    assert_equal_tables(table, whole)
    assert not folder.exists()


def test_table_is_computed_once(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config.datasets, TINY.img_size)
    once = elsewhere(config, images, tmp_path)
    _, path = score_table(once)
    stamp = path.stat().st_mtime_ns
    calls: list[int] = []
    score_table(once, lambda done, _: calls.append(done))
    assert path.stat().st_mtime_ns == stamp and not calls


def test_failure_on_a_worker_is_one_line(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config.datasets, TINY.img_size)
    missing = config.model_copy(update={"model": config.model.model_copy(update={"architecture": "nonsense"})})
    with pytest.raises(MedcoreError, match="nonsense"):
        score_table(elsewhere(missing, images, tmp_path))
    damaged = elsewhere(config, images, tmp_path / "damaged")
    _, path = score_table(damaged)
    path.write_bytes(b"half a table")
    with pytest.raises(MedcoreError, match="not a readable score table"):
        score_table(damaged)


def test_images_without_finite_gradients_are_named(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = calibration_images(config.datasets, TINY.img_size)
    images.boxes[2] = np.nan
    score_table(elsewhere(config, images, tmp_path))
    expected = f"1 images have non-finite gradients: {images.names[2]}"
    assert [expected in record.message for record in caplog.records] == [True, True]


def test_a_table_for_one_weight_has_a_file_of_its_own(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config.datasets, TINY.img_size)
    moved = config.model_copy(update={"output": tmp_path})
    fixed, path = score_table(scoring_job(moved, images, fixed_weights=True))
    assert fixed.nodes == (3.0,) and fixed.array("zero", "heads").shape[1] == 1
    assert score_table(scoring_job(moved, images, fixed_weights=True))[1] == path
    whole, other = score_table(scoring_job(moved, images))
    assert other != path and whole.array("zero", "heads").shape[1] == 3
    weights = replace(config.scoring.weights(), criterion="medcore")
    for mine, theirs in zip(mix(fixed, weights, TINY), mix(whole, weights, TINY), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * theirs.max())
    # the table for every weight serves a job for one
    assert score_table(scoring_job(moved, images, fixed_weights=True))[1] == other


def test_a_criterion_of_other_weights_gets_the_whole_table(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config.datasets, TINY.img_size)
    scoring = config.scoring.model_copy(update={"criterion": "fisher"})
    assert scoring_job(config.model_copy(update={"scoring": scoring}), images, fixed_weights=True).only is None
    assert scoring_job(config, images, fixed_weights=True).only == 3.0
