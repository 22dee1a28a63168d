"""Mixing against the formulas of method §4 written out directly."""

from dataclasses import replace

import numpy as np
import pytest

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.scoring.criteria import ScoringWeights, adaptive_alphas, block_sensitivity, mix
from medcore.scoring.score_table import families_of
from tests.support.helpers import TINY, halves, spec_of
from tests.support.scoring_samples import random_table, with_arrays


@pytest.mark.parametrize("alpha", [(None, None), (0.25, None), (None, 1.0), (0.7, 0.0)])
def test_mix_follows_the_formula(alpha: tuple[float | None, float | None]) -> None:
    table = random_table()
    given = dict(zip(("heads", "channels"), alpha, strict=True))
    weights = ScoringWeights(given, beta=0.4, mixture={"set0": 2, "set2": 6}, boundary_weight=3, tau=0.5)
    scores = mix(table, weights, TINY)
    shares = {0: 0.25, 1: 0.0, 2: 0.75}
    by_family = zip(("heads", "channels"), alpha, halves(TINY.sites), halves(scores), strict=True)
    for family, fixed, sites, found in by_family:
        zero_terms, reset = table.array("zero", family), table.array("reset", family)[:, 2]
        head_terms, head_reset = table.array("zero", "heads"), table.array("reset", "heads")[:, 2]
        zero = zero_terms[:, 0] + 6 * zero_terms[:, 1] + 9 * zero_terms[:, 2]
        for block in range(4):
            by_head = head_terms[:, 0] + 6 * head_terms[:, 1] + 9 * head_terms[:, 2]
            rho = np.corrcoef(by_head.mean(0)[block], head_reset.mean(0)[block])[0, 1]
            a = (1 + rho) / 2 if fixed is None else fixed
            for group in range(zero.shape[-1]):
                q = [a * zero[r, block, group] + (1 - a) * reset[r, block, group] for r in range(3)]
                expected = sum(shares[r] * q[r] for r in range(3)) + 0.4 * np.var(q)
                expected /= sites[block].cost.flops_paper ** 0.5
                assert found[block][group] == pytest.approx(expected, rel=1e-9)


def test_baseline_criteria_are_columns_of_the_table() -> None:
    table = random_table()
    mixture = {"set0": 2, "set2": 6}

    def heads(criterion: str, **more: float) -> np.ndarray:
        weights = ScoringWeights(criterion=criterion, mixture=mixture, boundary_weight=3, **more)  # type: ignore[arg-type]
        return np.stack(halves(mix(table, weights, TINY))[0])

    def mixed(values: np.ndarray) -> np.ndarray:
        return 0.25 * values[0] + 0.75 * values[2]

    np.testing.assert_allclose(heads("fisher"), mixed(table.array("zero", "heads")[:, 0]))
    np.testing.assert_allclose(heads("michel"), mixed(table.array("michel", "heads")[:, 2]))
    np.testing.assert_allclose(heads("activation"), mixed(table.array("activation", "heads")))
    np.testing.assert_allclose(heads("magnitude"), table.array("magnitude", "heads"))
    assert (heads("random", seed=1) == heads("random", seed=1)).all()
    assert (heads("random", seed=1) != heads("random", seed=2)).any()
    own, other = heads("medcore"), heads("michel")
    expected = 0.7 * own / own.mean(axis=1, keepdims=True) + 0.3 * other / other.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(heads("michel", blend=0.3), expected)
    np.testing.assert_allclose(heads("michel", blend=0), own)
    flops = np.array([site.cost.flops_paper for site in halves(TINY.sites)[0]])
    np.testing.assert_allclose(heads("magnitude", tau=1), table.array("magnitude", "heads") / flops[:, None])


def test_constant_scores_are_taken_as_agreeing() -> None:
    table = random_table()
    flat = with_arrays(table, reset_heads=np.full_like(table.array("reset", "heads"), 1e-40))
    assert adaptive_alphas(flat, ScoringWeights()).tolist() == [1.0] * 4
    single = replace(table, families=families_of(spec_of(TINY, (1,) * 4, (48,) * 4)))
    assert adaptive_alphas(single, ScoringWeights()).tolist() == [1.0] * 4


def test_tiny_scores_correlate_like_large_ones() -> None:
    table = random_table()
    zero, reset = table.array("zero", "heads"), table.array("reset", "heads")
    tiny = with_arrays(table, zero_heads=zero * 1e-200, reset_heads=reset * 1e-180)
    np.testing.assert_allclose(adaptive_alphas(tiny, ScoringWeights()), adaptive_alphas(table, ScoringWeights()))


def test_boundary_weight_off_the_nodes() -> None:
    table = random_table()
    with pytest.raises(MedcoreError, match="boundary weight 2 is not in the table; its nodes are 0, 1, 3, 10"):
        mix(table, ScoringWeights(boundary_weight=2), TINY)
    # without reset scores any weight will do: Fisher pruning is α = 1
    scores = mix(table, ScoringWeights({"heads": 1, "channels": 1}, beta=0, boundary_weight=2), TINY)
    a, b, c = np.moveaxis(table.array("zero", "heads"), 1, 0)
    np.testing.assert_allclose(np.stack(halves(scores)[0]), (a + 4 * b + 4 * c).mean(axis=0))


def test_bad_weights_are_refused() -> None:
    table = random_table()
    with pytest.raises(MedcoreError, match="mixture names kvasir; the score table knows set0, set1, set2"):
        mix(table, ScoringWeights(mixture={"kvasir": 1.0}), TINY)
    with pytest.raises(MedcoreError, match="not all 0"):
        mix(table, ScoringWeights(mixture={"set0": 0.0}), TINY)
    with pytest.raises(MedcoreError, match="alpha_hedas: tiny has only the families heads, channels"):
        mix(table, ScoringWeights({"hedas": 0.5}), TINY)
    with pytest.raises(MedcoreError, match="alpha_heads must lie in"):
        ScoringWeights({"heads": 1.5})
    with pytest.raises(MedcoreError, match="beta must be finite"):
        ScoringWeights(beta=float("nan"))
    with pytest.raises(MedcoreError, match="unknown criterion 'size'; known are medcore, fisher"):
        ScoringWeights(criterion="size")
    with pytest.raises(MedcoreError, match="blend must lie"):
        ScoringWeights(blend=1.5)
    with pytest.raises(MedcoreError, match="vit_b"):
        mix(table, ScoringWeights(), ARCHITECTURES["vit_b"])


def test_block_sensitivity_is_quadratic_and_mixed() -> None:
    table = random_table()
    a, b, c = (table.block_fisher[1, term] for term in range(3))
    sensitivity = block_sensitivity(table, ScoringWeights(mixture={"set1": 3}, boundary_weight=2.5))
    np.testing.assert_allclose(sensitivity, a + 5 * b + 6.25 * c)


def test_the_mixture_may_average_what_gives_alpha() -> None:
    table = random_table()
    shares = np.array([0.2, 0.3, 0.5])
    weights = ScoringWeights(
        mixture=dict(zip(table.datasets, shares.tolist(), strict=True)), correlation_over="mixture"
    )
    zero = np.einsum("d,dsg->sg", shares, table.at_weight(table.array("zero", "heads"), 3.0))
    reset = np.einsum("d,dsg->sg", shares, table.array("reset", "heads")[:, table.nodes.index(3.0)])
    expected = [(1 + np.corrcoef(one, other)[0, 1]) / 2 for one, other in zip(zero, reset, strict=True)]
    np.testing.assert_allclose(adaptive_alphas(table, weights), expected)
    assert not np.allclose(adaptive_alphas(table, replace(weights, correlation_over="datasets")), expected)
    assert ScoringWeights.from_dict(weights.to_dict()) == weights
    earlier = {name: value for name, value in weights.to_dict().items() if name != "correlation_over"}
    assert ScoringWeights.from_dict(earlier).correlation_over == "datasets"
