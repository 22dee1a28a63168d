from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from medcore.scoring.rankings import agreement, agreement_within, rank_variance


def footrule(one: list[float], other: list[float]) -> float:
    """Sum of the distances of places in two sorted lists, without ties."""
    return sum(abs(sorted(one).index(a) - sorted(other).index(b)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [2, 5, 6])
def test_agreement_is_one_less_the_share_of_the_largest_footrule(count: int) -> None:
    order = list(range(count))
    rules = {other: footrule(order, list(other)) for other in permutations(order)}
    largest = max(rules.values())
    for other, rule in rules.items():
        assert agreement(order, other) == pytest.approx(1 - rule / largest)
    assert agreement(order, order) == 1 and agreement(order, order[::-1]) == 0


def test_agreement_looks_at_ranks_only_and_random_rankings_reach_a_third() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(400, 72))
    assert agreement(scores[0], np.exp(scores[0])) == 1
    chance = [agreement(one, other) for one, other in zip(scores[::2], scores[1::2], strict=True)]
    assert np.mean(chance) == pytest.approx(1 / 3, abs=0.01)
    # equal scores share the mean of their places
    assert agreement([1, 1, 2], [1, 2, 3]) == pytest.approx(1 - (0.5 + 0.5) / 4)
    assert agreement([4.0], [2.0]) == 1


def test_agreement_within_is_the_mean_over_sites_with_several_groups() -> None:
    one = (np.array([1.0, 2.0]), np.array([3.0]), np.array([]), np.array([1.0, 2.0, 3.0]))
    other = (np.array([1.0, 2.0]), np.array([0.0]), np.array([]), np.array([3.0, 2.0, 1.0]))
    assert agreement_within(one, other) == pytest.approx((1 + 0) / 2)
    with pytest.raises(ValueError, match="no site"):
        agreement_within(one[1:3], other[1:3])
    with pytest.raises(ValueError, match="2 and of 3"):
        agreement([1, 2], [1, 2, 3])


def test_rank_variance_over_folds() -> None:
    assert rank_variance([[1, 2, 3], [1, 2, 3], [10, 20, 30]]) == 0
    # ranks 1, 3; 2, 2; 3, 1
    assert rank_variance([[1, 2, 3], [3, 2, 1]]) == pytest.approx((2 + 0 + 2) / 3)
    random = np.random.default_rng(1).random((50, 20))
    assert rank_variance(list(random)) == pytest.approx((20**2 - 1) / 12, rel=0.05)
    with pytest.raises(ValueError, match="two of them"):
        rank_variance([[1, 2]])
