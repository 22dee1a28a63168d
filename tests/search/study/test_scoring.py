"""The scoring job of a study: shared out over a real Ray, resumed, done once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray

from medcore.errors import MedcoreError
from medcore.scoring.job import parts
from search.base.config import Config, load_config
from search.study.inputs import calibration_images
from search.study.scoring import score_table
from tests.support.helpers import TINY
from tests.support.study_files import write_tiny_study


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("study")
    return load_config(write_tiny_study(folder, scoring={"part_size": 3}))


@contextmanager
def workers(count: int) -> Iterator[None]:
    ray.init(
        address="local", num_cpus=count, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}
    )
    try:
        yield
    finally:
        ray.shutdown()


def elsewhere(config: Config, folder: Path) -> Config:
    """The same study with an output folder of its own, so that nothing is cached; the split is the same."""
    return config.model_copy(update={"output": folder})


def test_two_workers_give_the_bits_of_one(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config, TINY.img_size)
    tables, calls = [], []
    for count in (1, 2):
        with workers(count):
            table, path = score_table(
                elsewhere(config, tmp_path / str(count)), images, lambda done, total: calls.append((done, total))
            )
        assert [file.suffix for file in sorted(path.parent.iterdir())] == [".lock", ".safetensors"]
        tables.append(table)
    for name, value in vars(tables[0]).items():
        np.testing.assert_array_equal(getattr(tables[1], name), value)
    assert calls[0] == (0, 16) and calls[-1] == (16, 16)
    alone, _ = score_table(elsewhere(config, tmp_path / "alone"), images)
    # this process may use more threads, and sums over tokens then round in another order
    np.testing.assert_allclose(alone.reset_channels, tables[0].reset_channels, rtol=1e-3)


def test_interrupted_job_goes_on(config: Config, tmp_path: Path) -> None:
    """Parts that are on disk are not computed again, and the result has the same bits."""
    images = calibration_images(config, TINY.img_size)
    whole, _ = score_table(elsewhere(config, tmp_path / "whole"), images)

    def stop(done: int, total: int) -> None:
        if done >= 7:
            raise KeyboardInterrupt

    again = elsewhere(config, tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        score_table(again, images, stop)
    folder = next((tmp_path / "again" / "cache").glob("*.parts"))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert 1 <= len(before) < len(parts(images, 3))
    calls: list[tuple[int, int]] = []
    table, _ = score_table(again, images, lambda done, total: calls.append((done, total)))
    assert calls[0][0] > 3 and calls[-1] == (16, 16)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(table, name), value)
    assert not folder.exists()


def test_table_is_computed_once(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config, TINY.img_size)
    once = elsewhere(config, tmp_path)
    _, path = score_table(once, images)
    stamp = path.stat().st_mtime_ns
    calls: list[int] = []
    score_table(once, images, lambda done, _: calls.append(done))
    assert path.stat().st_mtime_ns == stamp and not calls


def test_failure_on_a_worker_is_one_line(config: Config, tmp_path: Path) -> None:
    images = calibration_images(config, TINY.img_size)
    missing = config.model_copy(update={"model": config.model.model_copy(update={"architecture": "nonsense"})})
    with pytest.raises(MedcoreError, match="nonsense"):
        score_table(elsewhere(missing, tmp_path), images)
    damaged = elsewhere(config, tmp_path / "damaged")
    _, path = score_table(damaged, images)
    path.write_bytes(b"half a table")
    with pytest.raises(MedcoreError, match="not a readable score table"):
        score_table(damaged, images)


def test_images_without_finite_gradients_are_named(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = calibration_images(config, TINY.img_size)
    images.boxes[2] = np.nan
    score_table(elsewhere(config, tmp_path), images)
    expected = f"1 images have non-finite gradients: {images.names[2]}"
    assert [expected in record.message for record in caplog.records] == [True, True]
