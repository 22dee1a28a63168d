"""Streams of the unpruned model: recorded or computed, in memory or in a file, they are the same."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcore.data.load import ImageSet
from medcore.errors import ConfigError, DataError, StorageError
from medcore.models.sam import MedSam
from medcore.training.refit import scratch
from medcore.training.refit.dense_streams import (
    LiveStreams,
    ModuleStreams,
    RecordedStreams,
    RefitSettings,
    StreamAfter,
    evenly_chosen,
    record_streams,
)
from tests.support.helpers import TINY
from tests.support.toy.samples import toy_model
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return random_images(5)


@pytest.mark.parametrize("model", [tiny_model(), toy_model()], ids=["vit", "toy"])
def test_recorded_and_live_streams_are_the_same(model: MedSam, images: ImageSet) -> None:
    before = weights(model)
    recorded = record_streams(model, images, RefitSettings(batch_size=2, neck="all"))
    live = record_streams(model, images, RefitSettings(batch_size=2, neck="all"), most=1000)
    assert isinstance(recorded, RecordedStreams) and isinstance(live, LiveStreams)
    count = sum(site.output is not None for site in model.arch.sites) + len(model.arch.encoder_neck)
    assert sum(map(len, recorded.modules)) == count
    assert_equal(recorded.by_module(CPU), live.by_module(CPU))
    assert_same(before, weights(model))
    assert_equal(pickle.loads(pickle.dumps(recorded)).by_module(CPU), recorded.by_module(CPU))


def assert_equal(first: Any, second: Any) -> None:
    def equal(one: ModuleStreams, two: ModuleStreams) -> bool:
        return one.keys() == two.keys() and all(
            np.array_equal(one[site].values, two[site].values) and one[site].variance == two[site].variance
            for site in one
        )

    assert all(equal(one, two) for one, two in zip(first, second, strict=True))


@torch.no_grad()
def test_the_last_stream_is_what_enters_the_neck(images: ImageSet) -> None:
    model = tiny_model()
    *_, last, neck = record_streams(model, images, RefitSettings(batch_size=3, neck="all")).by_module(CPU)
    stream = torch.from_numpy(last[f"channels/{TINY.depth - 1:02d}"].values)
    embedding = model.image_encoder.neck(stream)
    *_, norm = model.image_encoder.neck
    convolved = torch.from_numpy(neck[list(TINY.encoder_neck)[-1]].values).permute(0, 3, 1, 2)
    torch.testing.assert_close(norm(convolved), embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding, model.encode(images.tensor()), rtol=1e-4, atol=1e-5)


def test_the_variance_is_numpys() -> None:
    values = (np.random.default_rng(0).normal(size=(5, 3, 4, 6)) + 10).astype(np.float32)
    values.setflags(write=False)
    after = StreamAfter.of(values)
    assert after.variance == pytest.approx(values.reshape(-1, 6).astype(np.float64).var(axis=0).sum())
    after.batch(slice(1, 3), CPU).zero_()  # a copy
    assert np.abs(values).min() > 0


def test_images_are_chosen_evenly() -> None:
    images = random_images(10)
    assert evenly_chosen(images, 4).names == ["0", "3", "6", "9"]
    assert evenly_chosen(images, 10) is images and evenly_chosen(images, 64) is images
    for few, count in ((images, 0), (images.subset([]), 4)):
        with pytest.raises(DataError, match="refit: needs at least one"):
            evenly_chosen(few, count)


def test_large_arrays_lie_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = scratch.scratch((3, 4, 5), large=100)
    assert isinstance(array, np.memmap) and array.shape == (3, 4, 5) and not list(tmp_path.iterdir())
    array[...] = 2
    assert array.sum() == 120
    assert not isinstance(scratch.scratch((3, 4, 5)), np.memmap)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"no space for .* \(No space left on device\); free some"):
        scratch.scratch((100,), large=100)


def test_batches_shrink_where_memory_is_short() -> None:
    seen = []

    def work(rows: slice) -> list[torch.Tensor]:
        seen.append(rows.stop - rows.start)
        if seen[-1] > 2:
            raise MemoryError
        return [torch.arange(rows.start, rows.stop)[:, None].double()]

    (array,) = scratch.collect(9, 4, work)
    np.testing.assert_array_equal(array[:, 0], range(9))
    assert array.dtype == np.float32 and seen[0] == 4 and max(seen[1:]) == 2


@pytest.mark.parametrize("wrong", [{"images": -1}, {"ridge": float("nan")}, {"batch_size": 0}])
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"refit: {next(iter(wrong))}"):
        RefitSettings(**wrong)
