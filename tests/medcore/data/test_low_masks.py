"""Low-resolution masks by the nearest neighbour: of the file's mask, wherever the set goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medcore.data.low_masks import NearestImageSet
from tests.support.training_samples import random_images


def test_the_nearest_pixel_of_the_original_mask_decides() -> None:
    images = random_images(3)
    # an original of another size than the square, with a line that an area of at least half would not keep
    truth = np.zeros((48, 96), bool)
    truth[:, 45] = True
    images.truths[1] = truth
    nearest = NearestImageSet.of(images)
    low = nearest.low_masks(16, [1, 2])
    # cell i of 16 has its centre in row 3·i + 1 and in column 6·i + 3: column 45 is that of cell 7
    rows, columns = np.floor((np.arange(16) + 0.5) * 3).astype(int), np.floor((np.arange(16) + 0.5) * 6).astype(int)
    np.testing.assert_array_equal(low[0], truth[np.ix_(rows, columns)])
    assert low[0][:, 7].all() and low.sum() > 16 and not images.low_masks(16, [1]).all()
    centres = np.floor((np.arange(16) + 0.5) * 4).astype(int)
    np.testing.assert_array_equal(low[1], images.truths[2][np.ix_(centres, centres)])


def test_subsets_keep_the_rule_and_caches_tell_them_apart() -> None:
    images = random_images(4)
    nearest = NearestImageSet.of(images)
    part = nearest.subset([2, 0])
    assert isinstance(part, NearestImageSet) and part.names == ["2", "0"]
    np.testing.assert_array_equal(part.low_masks(16), nearest.low_masks(16, [2, 0]))
    assert nearest.low_mask_tensor(16, []).shape == (0, 1, 16, 16)
    assert nearest.fingerprint() != images.fingerprint() == images.subset(None).fingerprint()


def test_pixels_that_count_nowhere_stay_so() -> None:
    images = random_images(1)
    void = np.zeros((64, 64), bool)
    void[:, 32:] = True
    nearest = NearestImageSet.of(replace(images, voids=[void]))
    low = nearest.low_masks(16)[0]
    assert (low[:, 8:] == 255).all() and (low[:, :8] <= 1).all()
    assert nearest.subset([0]).void(0) is not None
