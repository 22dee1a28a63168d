"""Front, hypervolume and knee against their definitions spelled out, and against counting random points."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from results.stats.objectives import Direction, Objective, read_objectives
from results.stats.pareto import (
    Bools,
    Floats,
    front_ranks,
    front_table,
    hypervolume,
    hypervolume_trace,
    knee,
    non_dominated,
    objective_losses,
    to_losses,
)

OBJECTIVES = [Objective(name="flops", direction="min"), Objective(name="dice", direction="max")]
inf, nan = np.inf, np.nan


def brute_front(losses: Floats) -> Bools:
    finite = [bool(np.isfinite(row).all()) for row in losses]
    return np.array(
        [
            finite[i] and not any(finite[j] and (b <= a).all() and (b < a).any() for j, b in enumerate(losses))
            for i, a in enumerate(losses)
        ],
        dtype=bool,
    )


def inclusion_exclusion(losses: Floats, reference: Floats) -> float:
    """Volume of a union of boxes by every subset of them; exponential, so for few points."""
    boxes = [row for row in losses if (row < reference).all()]
    return sum(
        (-1) ** (size + 1) * float(np.prod(reference - np.max(subset, axis=0)))
        for size in range(1, len(boxes) + 1)
        for subset in itertools.combinations(boxes, size)
    )


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_front_is_the_definition(dims: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # few levels: many ties and duplicates; some rows spoiled by every kind of non-finite value
    losses = rng.integers(0, 5, (60, dims)).astype(float)
    for row, value in zip(rng.choice(60, 6, replace=False), (nan, inf, -inf) * 2, strict=True):
        losses[row, rng.integers(dims)] = value
    np.testing.assert_array_equal(non_dominated(losses), brute_front(losses))
    smooth = rng.normal(size=(80, dims))
    np.testing.assert_array_equal(non_dominated(smooth), brute_front(smooth))


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_the_fronts_peeled_off_one_after_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, 5, (40, 3)).astype(float)
    losses[3, 0], losses[7, 2] = nan, inf
    expected, left, rank = np.zeros(40, dtype=int), np.isfinite(losses).all(axis=1), 1
    while left.any():
        front = np.flatnonzero(left)[brute_front(losses[left])]
        expected[front], left[front] = rank, False
        rank += 1
    assert front_ranks(losses).tolist() == expected.tolist()
    assert front_ranks(np.full((2, 3), nan)).tolist() == [0, 0]


def test_front_edge_cases() -> None:
    assert non_dominated(np.empty((0, 3))).shape == (0,) and non_dominated([]).shape == (0,)
    assert non_dominated([[3.0, 4.0]]).tolist() == [True]
    assert non_dominated([[1, 2], [1, 2], [2, 1], [2, 2]]).tolist() == [True, True, True, False]
    assert non_dominated([[nan, 0], [inf, 0], [-inf, 0]]).tolist() == [False] * 3
    assert non_dominated([[-inf, -inf], [1, 1]]).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        non_dominated([1.0, 2.0])


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_hypervolume_is_inclusion_exclusion(dims: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.uniform(0, 1.2, (9, dims))
    losses[8] = losses[0]  # a duplicate adds nothing
    reference = rng.uniform(0.8, 1.0, dims)
    assert hypervolume(losses, reference) == pytest.approx(inclusion_exclusion(losses, reference), abs=1e-12)


def test_hypervolume_is_the_share_of_random_points_dominated() -> None:
    rng = np.random.default_rng(0)
    losses, points = rng.uniform(0, 1, (40, 3)), rng.uniform(0, 1, (20_000, 3))
    dominated = (losses[:, None] <= points[None]).all(axis=2).any(axis=0)
    assert hypervolume(losses, np.ones(3)) == pytest.approx(dominated.mean(), abs=0.015)


def test_hypervolume_edge_cases() -> None:
    assert hypervolume(np.empty((0, 2)), [1, 1]) == 0 and hypervolume([], [1, 1]) == 0
    assert hypervolume([[1, 0], [0, 1], [2, -5], [nan, 0], [-inf, 0], [0, inf]], [1, 1]) == 0
    assert hypervolume([[0.5, 0.5], [nan, 0], [3, 0]], [1, 1]) == pytest.approx(0.25)
    assert hypervolume([[100e9, -0.9]], [900e9, 0.0]) == pytest.approx(800e9 * 0.9)
    for reference in ([1, inf], [1, nan]):
        with pytest.raises(ValueError, match="finite"):
            hypervolume([[0, 0]], reference)
    with pytest.raises(ValueError, match="columns"):
        hypervolume([[0, 0, 0]], [1, 1])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_trace_is_the_hypervolume_of_every_prefix(dims: int) -> None:
    rng = np.random.default_rng(dims)
    losses = rng.integers(0, 12, (50, dims)) / 10.0
    losses[[3, 20]] = nan
    losses[7, 0] = -inf
    reference = np.full(dims, 0.95)
    expected = [hypervolume(losses[: i + 1], reference) for i in range(len(losses))]
    trace = hypervolume_trace(losses, reference)
    np.testing.assert_allclose(trace, expected, atol=1e-12)
    assert (np.diff(trace) >= 0).all()
    assert hypervolume_trace(np.empty((0, dims)), reference).shape == (0,)


def test_knee_by_hand() -> None:
    # scaled to [0, 1]: (0, 1), (0.1, 0.3), (1, 0)
    assert knee([[0, 100], [1, 30], [10, 0]]) == 1
    assert knee([[7, 7]]) == 0
    assert knee([[0, 1], [1, 0]]) == 0, "ties by index"
    assert knee([[5, 3], [5, 1], [5, 2]]) == 1, "a constant column does not count"
    for bad in (np.empty((0, 2)), [[1, nan]], [[inf, 0]]):
        with pytest.raises(ValueError, match="knee"):
            knee(bad)


def test_knee_does_not_depend_on_units() -> None:
    rng = np.random.default_rng(0)
    losses = rng.uniform(size=(50, 3))
    losses = losses[non_dominated(losses)]
    scaled = (losses - losses.min(axis=0)) / np.ptp(losses, axis=0)
    assert knee(losses) == knee(losses * [1e12, 1, 300] + [5, -2, 0]) == np.argmin(np.linalg.norm(scaled, axis=1))


def test_losses_flip_what_goes_up() -> None:
    objectives = [Objective("a", "minimize"), Objective("b", "maximize"), Objective("c", "max")]  # type: ignore[arg-type]
    assert to_losses([[1, 2, 3]], objectives).tolist() == [[1, -2, -3]]
    assert to_losses(np.empty((0, 2)), objectives[:2]).shape == (0, 2)


def test_words_of_earlier_study_files_are_directions() -> None:
    words = {"min": True, "minimize": True, "down": True, "max": False, "maximize": False, "up": False}
    for word, lower in words.items():
        (objective,) = read_objectives([{"name": "x", "direction": word}])
        assert objective == Objective("x", Direction.MIN if lower else Direction.MAX)
        assert objective.lower_is_better == lower and objective.better(1.0, 2.0) == lower
    with pytest.raises(MedcoreError, match="'sideways'"):
        read_objectives([{"name": "x", "direction": "sideways"}])


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trial_id": ["a", "b", "c", "d", "e", "f"],
            "status": ["done", "done", "done", "failed", "done", "done"],
            "flops": [9.0, 1.0, 5.0, 0.0, 5.0, 6.0],
            "dice": [0.9, 0.2, 0.7, 1.0, 0.7, None],
        }
    )


def test_front_table_sorts_by_the_first_objective_and_leaves_failures_out() -> None:
    assert front_table(table(), OBJECTIVES)["trial_id"].tolist() == ["b", "c", "e", "a"]
    assert front_table(table(), OBJECTIVES[::-1])["trial_id"].tolist() == ["a", "c", "e", "b"]
    assert front_table(table(), OBJECTIVES).columns.tolist() == table().columns.tolist()


def test_front_table_without_finished_trials() -> None:
    empty = table().iloc[:0]
    assert front_table(empty, OBJECTIVES).empty and objective_losses(pd.DataFrame(), OBJECTIVES).shape == (
        0,
        2,
    )
    assert front_table(table().assign(status="failed"), OBJECTIVES).empty


def test_front_table_names_a_missing_objective() -> None:
    with pytest.raises(MedcoreError, match="no column dice"):
        front_table(table().drop(columns="dice"), OBJECTIVES)
    with pytest.raises(MedcoreError, match="at least one"):
        front_table(table(), [])


def test_table_is_left_as_it_was() -> None:
    df = table()
    front_table(df, OBJECTIVES)
    pd.testing.assert_frame_equal(df, table())
