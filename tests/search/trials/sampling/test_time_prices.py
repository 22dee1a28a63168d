"""Trials whose cost is measured time: sampled budgets, warm starts and their check."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np
import pytest

from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import smallest_fraction
from medcore.budgets.prices import measured_prices
from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.scoring.profile import Profile
from search.base.config import Config
from search.base.sections.search import SearchConfig
from search.commands.sections import trial_settings
from search.study.inputs import Shared
from search.trials.sampling.reach import reachable_starts, smallest_knapsack
from search.trials.sampling.space import EXACT, Domain, decode, domain_of, encode_fraction
from search.trials.sampling.warm import warm_starts
from tests.support.helpers import TINY
from tests.support.scoring_samples import random_table
from tests.support.time_tables import CURVES, TABLE
from tests.support.toy.samples import TOY

PRICES = measured_prices(TABLE)
CONFIG = Config.model_validate(
    {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}
    | {"search": {"warm_starts": {"knapsack": [0.5, 0.2], "uniform": [0.4], "rule": [0.6]}}}
)
SETTINGS = replace(
    trial_settings(CONFIG),
    search=CONFIG.search.model_copy(update={"cost": "time", "times": "unread.json"}),
    prices=PRICES,
)
DOMAIN = Domain(SETTINGS, TINY, ("one",), np.ones(4), CURVES)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_a_budget_meets_its_share_of_time(fraction: float) -> None:
    spec = decode(encode_fraction(fraction, DOMAIN), DOMAIN).spec
    assert PRICES.total(spec) <= fraction * PRICES.dense * (1 + 1e-9)
    assert spec == knapsack_budget(TINY, CURVES, fraction, prices=PRICES)
    counted = replace(DOMAIN, settings=replace(SETTINGS, search=CONFIG.search, prices=None))
    assert spec != decode(encode_fraction(fraction, counted), counted).spec


def test_a_share_out_of_reach_counts_as_the_least() -> None:
    params = encode_fraction(0.05, DOMAIN) | {"fraction": 0.01, "protected_last": 1}
    spec = decode(params, DOMAIN).spec
    assert spec.family("heads") == (0, 0, 0, 3) and spec.family("channels") == (0, 0, 0, 48)


def test_workers_need_no_file() -> None:
    there = pickle.loads(pickle.dumps(DOMAIN))
    params = encode_fraction(0.4, DOMAIN)
    assert decode(params, there) == decode(params, DOMAIN)


def shared() -> Shared:
    profile = Profile(tuple(np.arange(width) for width in TINY.dense_widths), CURVES)
    table = replace(random_table(TINY, datasets=1), profile=profile)
    nothing: Any = None
    return Shared(SETTINGS, TINY, table, *[nothing] * 6)


def test_uniform_and_rule_starts_stay_on_flops() -> None:
    domain, starts = domain_of(shared()), {start["origin"]: start for start in warm_starts(shared())}
    assert list(starts) == ["dense", "knapsack 0.5", "knapsack 0.2", "uniform 0.4", "rule 0.6"]
    dense = cost(ModelSpec.dense(TINY)).flops_paper
    for origin in ("uniform 0.4", "rule 0.6"):
        spec = ModelSpec.of(TINY, starts[origin]["params"][EXACT])
        fraction = float(origin.split()[1])
        assert cost(spec).flops_paper / dense == pytest.approx(fraction, abs=0.03)
        assert not starts[origin]["teaches"]
    for fraction in (0.5, 0.2):
        spec = decode(starts[f"knapsack {fraction:g}"]["params"], domain).spec
        assert PRICES.total(spec) <= fraction * PRICES.dense * (1 + 1e-9)


def test_the_least_share_of_time_is_that_of_all_budgets() -> None:
    assert smallest_knapsack(ModelSpec.dense(TINY), PRICES) == pytest.approx(PRICES.fixed / PRICES.dense)
    # a toy with sites that cannot be refit, which a knapsack keeps whole
    rng = np.random.default_rng(0)
    tables = tuple(np.append(0.0, np.sort(rng.uniform(0, 1, width))) for width in TOY.dense_widths)
    prices = replace(PRICES, tables=tables, dense=2.0 + sum(table[-1] for table in tables), fixed=2.0)
    widths = [(site.width,) if site.output is None else (0, site.width) for site in TOY.sites]
    budgets = (tuple(each) for each in product(*widths))
    least = min(prices.total(ModelSpec(TOY, budget)) for budget in budgets if consistent(budget))
    assert smallest_knapsack(ModelSpec.dense(TOY), prices) == pytest.approx(least / prices.dense)


def consistent(widths: tuple[int, ...]) -> bool:
    """Whether no site keeps groups if the group that holds it is cut."""
    kept = {site.name: width for site, width in zip(TOY.sites, widths, strict=True)}
    return all(site.within is None or kept[site.within] or not kept[site.name] for site in TOY.sites)


def test_warm_starts_out_of_reach_are_found_before_any_work() -> None:
    def check(**starts: tuple[float, ...]) -> None:
        settings = SETTINGS.search.model_copy(
            update={"warm_starts": SETTINGS.search.warm_starts.model_copy(update=starts)}
        )
        reachable_starts(cast(SearchConfig, settings), ModelSpec.dense(TINY), PRICES)

    check()
    least, of_flops = smallest_knapsack(ModelSpec.dense(TINY), PRICES), smallest_fraction(TINY, "flops_paper")
    assert least < of_flops
    check(knapsack=(least,))
    with pytest.raises(MedcoreError, match=rf"0\.01 of the time is out of reach, because {least:.4f} of tiny is left"):
        check(knapsack=(0.5, 0.01))
    between = (least + of_flops) / 2
    check(knapsack=(between,))
    with pytest.raises(MedcoreError, match="of the flops_paper is out of reach"):
        check(uniform=(between,))
