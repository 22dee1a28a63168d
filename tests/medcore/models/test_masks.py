"""Selection of groups: lowest first, ties by index, exact counts, NaN refused."""

import numpy as np
import pytest

from medcore.errors import MedcoreError
from medcore.models.masks import keep_all, select
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, halves, spec_of


def scores_like(spec: ModelSpec, generator: np.random.Generator, levels: int = 0) -> PerSite:
    """Random scores; with `levels`, integers that tie often."""

    def draw(count: int) -> np.ndarray:
        return generator.integers(levels, size=count).astype(float) if levels else generator.random(count)

    return tuple(map(draw, spec.widths))


@pytest.mark.parametrize("levels", [0, 2, 5])
def test_keeps_the_highest_by_an_independent_sort(levels: int) -> None:
    generator = np.random.default_rng(levels)
    for _ in range(20):
        spec = spec_of(TINY, tuple(generator.integers(0, 4, 4).tolist()), tuple(generator.integers(0, 49, 4).tolist()))
        scores = scores_like(ModelSpec.dense(TINY), generator, levels)
        masks = select(scores, spec)
        for values, mask, count in zip(scores, masks, spec.widths, strict=True):
            ranked = sorted(range(len(values)), key=lambda index, v=values: (v[index], index))
            assert mask.dtype == bool and np.flatnonzero(mask).tolist() == sorted(ranked[len(values) - count :])


def test_equal_scores_lose_the_lower_index() -> None:
    dense = ModelSpec.dense(TINY)
    scores = tuple(np.zeros(width) for width in dense.widths)
    heads, channels = halves(select(scores, spec_of(TINY, (1,) * 4, (48, 47, 1, 0))))
    assert heads[0].tolist() == [False, False, True]
    assert not channels[1][0] and channels[1][1:].all()
    assert np.flatnonzero(channels[2]).tolist() == [47]
    assert not channels[3].any()


def test_scores_of_a_pruned_model() -> None:
    current = spec_of(TINY, (3, 2, 0, 1), (10, 0, 5, 48))
    scores = scores_like(current, np.random.default_rng(0))
    heads, channels = halves(select(scores, spec_of(TINY, (1, 2, 0, 0), (10, 0, 2, 3))))
    assert [mask.sum() for mask in heads] == [1, 2, 0, 0]
    assert [len(mask) for mask in channels] == [10, 0, 5, 48]


def test_infinite_scores_rank_like_numbers() -> None:
    dense = ModelSpec.dense(TINY)
    scores = scores_like(dense, np.random.default_rng(0))
    scores[0][:] = [np.inf, -np.inf, 0.0]
    spec = spec_of(TINY, (2, 3, 3, 3), dense.family("channels"))
    assert select(scores, spec)[0].tolist() == [True, False, True]


def test_refuses_nan_and_what_is_not_there() -> None:
    dense = ModelSpec.dense(TINY)
    scores = scores_like(dense, np.random.default_rng(0))
    scores[TINY.depth + 2][7] = np.nan
    with pytest.raises(MedcoreError, match="block 2 channel 7 is NaN"):
        select(scores, dense)
    small = scores_like(spec_of(TINY, (1,) * 4, (4,) * 4), np.random.default_rng(0))
    with pytest.raises(MedcoreError, match="block 0 has 1 head scores but is to keep 3"):
        select(small, dense)
    with pytest.raises(MedcoreError, match="scores of 4 sites for a model of 8"):
        select(small[:4], dense)


def test_keep_all_keeps_all() -> None:
    spec = spec_of(TINY, (3, 0, 2, 1), (48, 0, 7, 1))
    heads, channels = halves(keep_all(spec))
    assert [mask.tolist() for mask in heads] == [[True] * 3, [], [True] * 2, [True]]
    assert [mask.sum() for mask in channels] == [48, 0, 7, 1]
