"""The arms: what each changes in the configuration, and where its budgets come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.search_arms.figures import anytime_share
from medcore.budgets.limits import Limits
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.spec import ModelSpec
from search.base.config import Config, validate
from search.trials.sampling.space import Domain, encode_budget, encode_fraction

#: Returns a trial's parameters at a share of the cost.
Budget = Callable[[float, Domain], dict[str, Any]]

#: Share of the cost at which the arm with even costs recovers for the configured number of steps.
_EVEN_AT = 0.15

#: Bisections of the smallest share that an allocator reaches.
_HALVINGS = 12

_GRID = {"search.scheduler": "none", "search.finalists": 0.0}
#: The search's defaults. No arm pays for the dense model, which is measured once a seed as the reference of all.
_SEARCH = {
    "search.warm_starts.dense": False,
    "search.sampler": "gaps",
    "search.scheduler": "none",
    "search.space.lean": 0.0,
    # a share of the seconds, not of the trials; averages take few
    "search.finalists": 0.2,
}
#: The search's defaults until gaps in the share of the cost were halved.
_HALVING = {
    "search.sampler": "tpe",
    "search.scheduler": "halving",
    "search.average_runs": False,
    "search.space.lean": {"low": -1, "high": 1},
}
_NO_REFIT = {"recovery.refit_images": 0}
_MEDCORE_SCORES = {"scoring.criterion": "medcore", "search.space.shape": "shares", "search.space.criterion": "medcore"}

#: The search of before second-order curves, refits and halving: space, recovery and warm starts of that version.
_BEFORE: dict[str, Any] = {
    **_GRID,
    **_NO_REFIT,
    "scoring.criterion": "medcore",
    "recovery.lr": 3e-4,
    "recovery.terms": {},
    "recovery.lr_schedule": "cosine",
    "recovery.warmup": 0,
    "recovery.average": 0.0,
    "schedule.order": "heads_first",
    "search.sampler": "tpe",
    "search.warm_starts": {
        "dense": False,
        "knapsack": [],
        "uniform": [0.5, 0.3, 0.15, 0.08],
        "rule": [0.5, 0.3, 0.15],
    },
    "search.space": {
        "shape": "shares",
        "fraction": {"low": 0.05, "high": 1.0, "log": True},
        "lean": {"low": -2, "high": 2},
        "slope_heads": {"low": -1, "high": 1},
        "slope_channels": {"low": -1, "high": 1},
        "global_bonus": {"low": -1, "high": 1},
        "follow_heads": 0,
        "follow_channels": 0,
        "spread": {"low": 0, "high": 1.5},
        "criterion": "medcore",
        # reset scores are some 1e4 times smaller than zero scores, so the mixing weight matters near 0
        "alpha_heads": {"choices": [0.0, 1e-4, 0.5, 1.0]},
        "alpha_channels": {"choices": [0.0, 1e-4, 0.5, 1.0]},
        "adaptive_alpha": {"choices": [True, False]},
        "beta": {"low": 0, "high": 1},
        "boundary_weight": {"choices": [0.0, 1.0, 3.0, 10.0]},
        "mixture": {"low": 0.05, "high": 1, "log": True},
        "lr": {"low": 1e-4, "high": 1e-3, "log": True},
        "head_share": {"low": 0.1, "high": 0.9},
    },
}


@dataclass(frozen=True)
class Arm:
    """One way to spend processor seconds.

    Attributes:
        name: For the command line and for folders.
        text: What the arm does, for readers.
        changes: Values of the configuration by dotted key.
        budget: Gives the parameters of each trial; None for an arm that searches.
        limit: Number of trials; None for as many as the seconds allow.
    """

    name: str
    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    limit: int | None = None


def knapsack(share: float, domain: Domain) -> dict[str, Any]:
    """Return the parameters of the pure knapsack."""
    return encode_fraction(share, domain)


def even_knapsack(share: float, domain: Domain) -> dict[str, Any]:
    """Return the pure knapsack with steps in inverse proportion to its cost, as many as configured at `_EVEN_AT`."""
    steps = domain.settings.recovery.steps * _EVEN_AT / share
    return encode_fraction(share, domain) | {"steps": steps}


def uniform(share: float, domain: Domain) -> dict[str, Any]:
    """Return the parameters of the uniform budget, which leans to heads if equal shares would leave hardly any."""
    settings = domain.settings
    limits = Limits(multiple=settings.budget.multiple)
    return _exact(uniform_to_target(domain.arch, share, settings.search.metric, limits), share, domain)


def rule(share: float, domain: Domain) -> dict[str, Any]:
    """Return the parameters of the paper's rule at a cost."""
    spec = rule_to_target(domain.arch, share, domain.sensitivity, metric=domain.settings.search.metric)
    return _exact(spec, share, domain)


def dense(share: float, domain: Domain) -> dict[str, Any]:
    """Return the parameters of the unpruned model, whatever the share."""
    return _exact(ModelSpec.dense(domain.arch), 1.0, domain)


def _exact(spec: ModelSpec, share: float, domain: Domain) -> dict[str, Any]:
    weights = domain.settings.scoring.weights(domain.settings.seed)
    return encode_budget(spec, share, weights, domain)


DENSE_ARM = Arm("dense", "the unpruned model with the configured recovery", _GRID, dense, limit=1)

_ARMS = (
    Arm(
        "search",
        "the search by default: it halves gaps between shares of the cost, repeats the front and averages the runs",
        _SEARCH,
    ),
    Arm("knapsack", "pure knapsack budgets on a grid, refit and fully recovered", _GRID, knapsack),
    Arm(
        "uniform",
        "uniform budgets on the same grid, leaning to heads where they must, refit and fully recovered",
        _GRID,
        uniform,
    ),
    Arm("uniform-without-refit", "the same uniform budgets, recovered only", {**_GRID, **_NO_REFIT}, uniform),
    Arm(
        "rule",
        "MedCore's rule and scores at the same costs, refit and fully recovered",
        {**_GRID, **_MEDCORE_SCORES},
        rule,
    ),
    Arm(
        "rule-without-refit",
        "MedCore's rule and scores, recovered only",
        {**_GRID, **_MEDCORE_SCORES, **_NO_REFIT},
        rule,
    ),
    Arm(
        "shares",
        "the search of before, on today's recovery images: shares for curves, no refit, halving or repeats",
        _BEFORE,
    ),
    Arm(
        "search-halving",
        "a search over the share and the preference of heads, with TPE and successive halving",
        {**_SEARCH, **_HALVING},
    ),
    Arm("tpe", "the same search with TPE", {**_SEARCH, "search.sampler": "tpe"}),
    Arm("random", "the same search with random sampling", {**_SEARCH, "search.sampler": "random"}),
    Arm("nsga2", "the same search with NSGA-II", {**_SEARCH, "search.sampler": "nsga2"}),
    Arm("gp", "the same search with Gaussian processes", {**_SEARCH, "search.sampler": "gp"}),
    Arm("knapsack-even", "the knapsack grid with steps in inverse proportion to the cost", _GRID, even_knapsack),
    Arm(
        "search-steps",
        "a search over the share, the steps and the learning rate of pure knapsacks",
        {
            **_SEARCH,
            "search.space.steps": {"low": 20, "high": 200, "log": True},
            "search.space.lr": {"low": 5e-5, "high": 1e-3, "log": True},
        },
    ),
    Arm(
        "search-exponent",
        "a search over the share and the exponent of the curves",
        {**_SEARCH, "search.space.exponent": {"low": 0.5, "high": 1.5, "log": True}},
    ),
    Arm("search-singles", "the same search, whose repeats are not averaged", {**_SEARCH, "search.average_runs": False}),
    Arm(
        "search-repeats",
        "the same search, with two fifths of its seconds for repeats and averages",
        {**_SEARCH, "search.finalists": 0.4},
    ),
)

#: All arms by name, in the order of the table.
ARMS = {arm.name: arm for arm in _ARMS}


def config_of(arm: Arm, config: Config, seed: int, work: Path, trials: int) -> Config:
    """Return the configuration of one arm and seed.

    Args:
        arm: What to change.
        config: The configuration that all arms share.
        seed: Number of the repetition, which names the study. The seed of statistics and images stays.
        work: Folder of all studies.
        trials: Number of trials for which samplers plan.

    Raises:
        MedcoreError: The changed configuration is invalid.
    """
    fixed = {"output": str(work), "study": f"{arm.name}-{seed}", "search.trials": trials}
    values = config.model_dump(mode="json")
    for key, value in {**fixed, **arm.changes}.items():
        _set(values, key, value)
    return validate(values, f"arm {arm.name}")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Replace the value at a dotted key."""
    *path, last = key.split(".")
    for name in path:
        values = values[name]
    values[last] = value


@dataclass(frozen=True)
class Grid:
    """Shares of the cost between the ends of the space, which get finer the longer they last.

    Attributes:
        budget: Gives the parameters at a share.
        domain: What the parameters refer to.
        low: Smallest share.
        high: Largest share.
    """

    budget: Budget
    domain: Domain
    low: float
    high: float

    @classmethod
    def of(cls, budget: Budget, domain: Domain) -> Grid:
        """Return the grid of a space; it begins at the smallest share that the allocator reaches."""
        ends = [float(value) for value in domain.dimensions["fraction"].values]
        return cls(budget, domain, _smallest_reached(budget, domain, min(ends), max(ends)), max(ends))

    def share(self, number: int) -> float:
        """Return the share of trial `number`."""
        return anytime_share(number, self.low, self.high)

    def params(self, number: int) -> dict[str, Any]:
        """Return the parameters of trial `number`."""
        return self.budget(self.share(number), self.domain)


def _smallest_reached(budget: Budget, domain: Domain, low: float, high: float) -> float:
    """Return the smallest share that an allocator reaches, by bisection."""
    if _reaches(budget, domain, low):
        return low
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _reaches(budget, domain, middle) else (middle, high)
    return high


def _reaches(budget: Budget, domain: Domain, share: float) -> bool:
    try:
        budget(share, domain)
    except MedcoreError:
        return False
    return True
