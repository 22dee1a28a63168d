"""Selection of groups: lowest first, ties by index, exact counts, NaN refused."""

import numpy as np
import pytest

from medcore.errors import MedcoreError
from medcore.models.groups import PerGroup
from medcore.models.masks import keep_all, select
from medcore.models.spec import EncoderSpec
from tests.support.helpers import TINY


def scores_like(spec: EncoderSpec, generator: np.random.Generator, levels: int = 0) -> PerGroup:
    """Random scores; with `levels`, integers that tie often."""

    def draw(count: int) -> np.ndarray:
        return generator.integers(levels, size=count).astype(float) if levels else generator.random(count)

    return PerGroup(tuple(map(draw, spec.heads)), tuple(map(draw, spec.channels)))


@pytest.mark.parametrize("levels", [0, 2, 5])
def test_keeps_the_highest_by_an_independent_sort(levels: int) -> None:
    generator = np.random.default_rng(levels)
    for _ in range(20):
        spec = EncoderSpec(
            TINY, tuple(generator.integers(0, 4, 4).tolist()), tuple(generator.integers(0, 49, 4).tolist())
        )
        scores = scores_like(EncoderSpec.dense(TINY), generator, levels)
        masks = select(scores, spec)
        for family in ("heads", "channels"):
            for values, mask, count in zip(
                getattr(scores, family), getattr(masks, family), getattr(spec, family), strict=True
            ):
                ranked = sorted(range(len(values)), key=lambda index, v=values: (v[index], index))
                assert mask.dtype == bool and np.flatnonzero(mask).tolist() == sorted(ranked[len(values) - count :])


def test_equal_scores_lose_the_lower_index() -> None:
    dense = EncoderSpec.dense(TINY)
    scores = PerGroup(tuple(np.zeros(n) for n in dense.heads), tuple(np.zeros(n) for n in dense.channels))
    masks = select(scores, EncoderSpec(TINY, (1,) * 4, (48, 47, 1, 0)))
    assert masks.heads[0].tolist() == [False, False, True]
    assert not masks.channels[1][0] and masks.channels[1][1:].all()
    assert np.flatnonzero(masks.channels[2]).tolist() == [47]
    assert not masks.channels[3].any()


def test_scores_of_a_pruned_model() -> None:
    current = EncoderSpec(TINY, (3, 2, 0, 1), (10, 0, 5, 48))
    scores = scores_like(current, np.random.default_rng(0))
    masks = select(scores, EncoderSpec(TINY, (1, 2, 0, 0), (10, 0, 2, 3)))
    assert [mask.sum() for mask in masks.heads] == [1, 2, 0, 0]
    assert [len(mask) for mask in masks.channels] == [10, 0, 5, 48]


def test_infinite_scores_rank_like_numbers() -> None:
    dense = EncoderSpec.dense(TINY)
    scores = scores_like(dense, np.random.default_rng(0))
    scores.heads[0][:] = [np.inf, -np.inf, 0.0]
    assert select(scores, EncoderSpec(TINY, (2, 3, 3, 3), dense.channels)).heads[0].tolist() == [
        True,
        False,
        True,
    ]


def test_refuses_nan_and_what_is_not_there() -> None:
    dense = EncoderSpec.dense(TINY)
    scores = scores_like(dense, np.random.default_rng(0))
    scores.channels[2][7] = np.nan
    with pytest.raises(MedcoreError, match="block 2 channel 7 is NaN"):
        select(scores, dense)
    small = scores_like(EncoderSpec(TINY, (1,) * 4, (4,) * 4), np.random.default_rng(0))
    with pytest.raises(MedcoreError, match="block 0 has 1 head scores but is to keep 3"):
        select(small, dense)
    with pytest.raises(MedcoreError, match="scores of 2 blocks"):
        select(PerGroup(small.heads[:2], small.channels[:2]), dense)


def test_keep_all_keeps_all() -> None:
    spec = EncoderSpec(TINY, (3, 0, 2, 1), (48, 0, 7, 1))
    masks = keep_all(spec)
    assert [mask.tolist() for mask in masks.heads] == [[True] * 3, [], [True] * 2, [True]]
    assert [mask.sum() for mask in masks.channels] == [48, 0, 7, 1]
