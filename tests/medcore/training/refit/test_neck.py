"""Which layers of the neck a refit solves for."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from medcore.data.load import ImageSet
from medcore.errors import ConfigError, DataError
from medcore.models.cut import prune
from medcore.training.orders import NeckLayers
from medcore.training.refit.dense_streams import DenseStreams, record_streams
from medcore.training.refit.refit import RefitSettings, refit
from tests.support.helpers import TINY
from tests.support.training_samples import REFIT as SETTINGS
from tests.support.training_samples import masks_of, tiny_model, weights


@pytest.mark.parametrize(("neck", "count"), [("none", 0), ("pointwise", 1), ("all", 2)])
@pytest.mark.parametrize("source", ["recorded", "live"])
def test_as_much_of_the_neck_is_refit_as_is_asked_for(
    neck: NeckLayers, count: int, source: str, streams: DenseStreams, images: ImageSet
) -> None:
    cut = prune(tiny_model(), masks_of(channels_02=5))
    expected = refit(copy.deepcopy(cut), streams, SETTINGS).branches
    before, settings = weights(cut), dataclasses.replace(SETTINGS, neck=neck)
    most = 0 if source == "live" else 10**9
    log = refit(cut, record_streams(tiny_model(), images, settings, most), settings)
    names = list(TINY.encoder_neck)[:count]
    assert log.branches == expected[: len(expected) - 2 + count]
    assert [each.name for each in log.branches if each.neck] == names
    layers = {name for name in before if ".neck." in name and not torch.equal(weights(cut)[name], before[name])}
    assert layers == {f"{name}.weight" for name in names}
    assert ("refit_neck_error_after" in log.figures()) == bool(count)


def test_streams_without_the_neck_are_refused_where_it_is_to_be_refit(images: ImageSet) -> None:
    recorded = record_streams(tiny_model(), images, dataclasses.replace(SETTINGS, neck="none"))
    with pytest.raises(DataError, match=r"the streams lack image_encoder\.neck\.0; record them with the same"):
        refit(prune(tiny_model(), masks_of(channels_02=5)), recorded, SETTINGS)


def test_an_unknown_part_of_the_neck_is_refused() -> None:
    with pytest.raises(ConfigError, match="neck must be one of none, pointwise, all, not 'some'"):
        RefitSettings(neck="some")  # type: ignore[arg-type]
