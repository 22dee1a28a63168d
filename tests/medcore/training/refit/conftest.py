"""What the tests of refits share: images, and the streams of the unpruned model for them."""

from __future__ import annotations

import pytest

from medcore.data.load import ImageSet
from medcore.training.refit.dense_streams import DenseStreams, record_streams
from tests.support.training_samples import REFIT, random_images, tiny_model


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return random_images(6)


@pytest.fixture(scope="module")
def streams(images: ImageSet) -> DenseStreams:
    return record_streams(tiny_model(), images, REFIT)
