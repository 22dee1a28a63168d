"""The knapsack on plain arrays, against all choices on small random cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medcore.budgets.choices import BINS, Choices, Problem, bins_of, filled, lower_bound, repaired
from medcore.budgets.dynamic import least_loss
from medcore.budgets.lagrangian import solve

Chance = np.random.Generator


def random_problem(chance: Chance, limits: int = 1, *, whole: bool = True, owners: tuple[int, ...] = ()) -> Problem:
    """Five sites (or as many as owners) of two to five choices; losses fall with the width, costs need not rise."""
    sites = []
    for site in range(len(owners) or 5):
        count = 2 if site in owners else int(chance.integers(2, 6))
        losses = np.sort(chance.random(count))[::-1] ** 3
        costs = chance.integers(0, 40, (limits, count)) * (1.0 if whole else chance.random())
        if chance.random() < 0.7:
            costs = np.sort(costs, axis=1)
        sites.append(Choices(np.arange(count), losses, costs.astype(np.float64)))
    most = np.array([sum(site.costs[number].max() for site in sites) for number in range(limits)])
    return Problem(tuple(sites), np.round(most * chance.uniform(0.2, 0.9, limits), 3), owners or (-1,) * 5)


def exhaustive(problem: Problem) -> float:
    """The least loss of all combinations within the limits; infinite if there is none."""
    best = np.inf
    for picks in itertools.product(*(range(len(site.widths)) for site in problem.sites)):
        loss, costs, gone = 0.0, np.zeros(len(problem.limits)), set[int]()
        for number, (site, pick, owner) in enumerate(zip(problem.sites, picks, problem.owners, strict=True)):
            if owner in gone:
                gone.add(number)
                continue
            if site.widths[pick] == 0:
                gone.add(number)
            loss, costs = loss + site.losses[pick], costs + site.costs[:, pick]
        if (costs <= problem.limits).all():
            best = min(best, loss)
    return best


def test_whole_costs_give_the_optimum() -> None:
    chance = np.random.default_rng(0)
    met = 0
    for _ in range(150):
        problem = random_problem(chance)
        expected, found = exhaustive(problem), solve(problem)
        if found is None:
            assert expected == np.inf
            continue
        met += 1
        assert found.loss == pytest.approx(expected, abs=1e-12)
        assert found.costs[0] <= problem.limits[0]
        assert lower_bound(problem, found.multipliers) == pytest.approx(expected, abs=1e-12)
    assert met > 100


def test_groups_that_hold_sites_give_the_optimum() -> None:
    """Site 0 holds site 2, which holds sites 3 and 4; site 1 holds site 5."""
    chance = np.random.default_rng(1)
    owners, closed = (-1, -1, 0, 2, 2, 1), 0
    for _ in range(100):
        problem = random_problem(chance, owners=owners)
        expected, found = exhaustive(problem), solve(problem)
        assert (found is None) == (expected == np.inf)
        if found is not None:
            assert found.loss == pytest.approx(expected, abs=1e-12)
            closed += not found.widths[0]
            assert found.widths[0] or not found.widths[[2, 3, 4]].any()
    assert 10 < closed < 90


@pytest.mark.parametrize("bins", [BINS, 60])
def test_fractional_costs_hold_the_limit_and_come_close(bins: int) -> None:
    chance, excess = np.random.default_rng(2), []
    for _ in range(100):
        drawn = random_problem(chance, whole=False)
        problem = Problem(drawn.sites, drawn.limits, drawn.owners, bins)
        expected, found = exhaustive(problem), solve(problem)
        if found is None:
            continue
        assert found.costs[0] <= problem.limits[0] * (1 + 1e-9)
        bound = lower_bound(problem, found.multipliers)
        assert bound <= expected + 1e-12 <= found.loss + 2e-12
        excess.append(found.loss - expected)
    assert len(excess) > 60 and np.mean(excess) < (1e-4 if bins == BINS else 2e-2)


@pytest.mark.parametrize("limits", [2, 3])
def test_several_limits_are_met_with_a_small_gap(limits: int) -> None:
    chance, excess = np.random.default_rng(3), []
    for _ in range(80):
        problem = random_problem(chance, limits)
        expected, found = exhaustive(problem), solve(problem)
        if found is None:
            continue
        assert (found.costs <= problem.limits).all()
        assert lower_bound(problem, found.multipliers) <= expected + 1e-9 <= found.loss + 2e-9
        excess.append(found.loss - expected)
    assert len(excess) > 30 and np.mean(np.array(excess) < 1e-9) > 0.9 and np.mean(excess) < 5e-3


def test_a_limit_that_does_not_bind_changes_nothing() -> None:
    chance = np.random.default_rng(4)
    for _ in range(20):
        one = random_problem(chance)
        sites = tuple(Choices(s.widths, s.losses, np.vstack([s.costs, s.costs])) for s in one.sites)
        two = Problem(sites, np.append(one.limits, 1e6), one.owners)
        first, second = solve(one), solve(two)
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert first.widths.tolist() == second.widths.tolist() and second.multipliers.tolist() == [0.0]


def test_convex_curves_have_almost_no_gap_to_the_bound() -> None:
    chance = np.random.default_rng(5)
    kept = np.arange(97)
    sites = tuple(
        Choices(kept, chance.lognormal(sigma=2) * (1 - kept / 96) ** 3, np.stack([kept * 1.37, kept * cost]))
        for cost in chance.uniform(0.5, 2, 8)
    )
    problem = Problem(sites, np.array([0.2 * 8 * 96 * 1.37, 0.15 * 8 * 96 * 1.25]), (-1,) * 8)
    found = solve(problem)
    assert found is not None
    assert found.loss <= 1.01 * lower_bound(problem, found.multipliers)


def test_the_same_problem_gives_the_same_widths() -> None:
    chance = np.random.default_rng(6)
    problem = random_problem(chance, 2, whole=False)
    first, second = solve(problem), solve(problem)
    assert first is not None and second is not None
    assert first.widths.tolist() == second.widths.tolist() and first.loss == second.loss


def test_a_limit_of_everything_keeps_everything() -> None:
    """Rounding up must not lose the dense model, whose costs add up to the limit exactly."""
    kept = np.arange(11)
    sites = tuple(Choices(kept, 1 - kept / 10, (kept * 0.1)[None]) for _ in range(7))
    found = solve(Problem(sites, np.array([sum(site.costs[0, -1] for site in sites)]), (-1,) * 7))
    assert found is not None and found.widths.tolist() == [10] * 7


def test_whole_costs_count_in_their_divisor_and_others_in_bins() -> None:
    site = Choices(np.arange(3), np.array([2.0, 1.0, 0.0]), np.array([[300.0, 700.0, 1500.0]]))
    bins = bins_of(Problem((site,), np.array([1350.0]), (-1,)), up=True)
    # 300 are spent in any case; what is left counts in 400
    assert bins.capacity == 2 and bins.weights[0].tolist() == [0, 1, 3]
    other = Choices(site.widths, site.losses, site.costs * 1.001)
    # little may stay: bins of what may stay
    bins = bins_of(Problem((other,), np.array([700.3]), (-1,)), up=True)
    assert bins.capacity == BINS and bins.weights[0].tolist() == [0, BINS + 1, BINS + 1]
    # 1201.2 - 800.8 = 400.4 have to go, half as much as may stay: bins are twice as fine
    bins = bins_of(Problem((other,), np.array([300.3 + 800.8]), (-1,)), up=True)
    assert abs(bins.capacity - 2 * BINS) <= 1 and abs(bins.weights[0][1] - BINS) <= 1
    down = bins_of(Problem((other,), np.array([300.3 + 800.8]), (-1,)), up=False)
    assert down.weights[0][1] <= bins.weights[0][1] <= down.weights[0][1] + 1


def test_least_loss_by_hand() -> None:
    losses = [np.array([5.0, 1.0, 0.5]), np.array([4.0, 3.0, 0.0])]
    weights = [np.array([0, 2, 3]), np.array([0, 1, 3])]
    widths = [np.arange(3)] * 2
    expected = {0: [0, 0], 1: [0, 1], 2: [1, 0], 3: [1, 1], 4: [2, 1], 5: [1, 2], 6: [2, 2]}
    for capacity, picks in expected.items():
        found = least_loss(losses, weights, widths, capacity, {-1: [0, 1]})
        assert found is not None and found.tolist() == picks
    assert least_loss(losses, [weights[0] + 1, weights[1]], widths, 0, {-1: [0, 1]}) is None
    assert least_loss(losses, weights, widths, -1, {-1: [0, 1]}) is None


def test_filling_only_lowers_the_loss_and_repair_meets_the_limits() -> None:
    chance, mended = np.random.default_rng(7), 0
    for _ in range(100):
        problem = random_problem(chance, 2)
        picks = np.array([chance.integers(len(site.widths)) for site in problem.sites])
        within = repaired(problem, picks)
        if within is None:
            continue
        mended += (problem.room(picks) < 0).any()
        assert (problem.room(within) >= 0).all()
        full = filled(problem, within)
        assert (problem.room(full) >= 0).all() and problem.loss(full) <= problem.loss(within)
        room = problem.room(full)
        for site, pick in enumerate(full):  # no single move is left
            better = problem.sites[site].losses < problem.sites[site].losses[pick]
            more = problem.sites[site].costs - problem.sites[site].costs[:, pick][:, None]
            assert not (better & (more <= room[:, None]).all(axis=0)).any()
    assert mended > 20
