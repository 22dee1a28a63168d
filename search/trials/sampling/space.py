"""What a trial samples, and what the sampled parameters mean.

`sample` draws flat parameters. `decode` turns them into a budget, scoring weights, a schedule and recovery settings.
`encode_fraction` and `encode_budget` find the parameters of budgets that warm-start the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.budgets.knapsack import knapsack_budget, smallest_share
from medcore.budgets.limits import Limits, last_blocks, smallest_fraction
from medcore.budgets.prices import Prices, linear_prices
from medcore.budgets.targets import to_target
from medcore.errors import ConfigError
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.scoring.criteria import ScoringWeights, known_sensitivity
from search.base.sections.dimensions import Choices, Draws, Fixed, Range
from search.base.sections.space import CURVES, SHARES
from search.study.inputs import Shared, TrialSettings
from search.trials.sampling.preferences import log_shares, neutral_names, preferences, residual_names

Params = dict[str, Any]

#: Dimensions that the section `recovery` decides if the space leaves them open.
_RECOVERY = ("lr", "steps")
#: The dimension that the section `model` decides if the space leaves it open.
_SIDE = "side"
#: Dimensions that the section `schedule` decides if the space leaves them open.
_SCHEDULE = ("order", "rounds", "rescore", "rescore_per_dataset")
#: Key of a warm start's exact budget and scoring weights. They override what the other parameters say.
EXACT = "exact"


@dataclass(frozen=True)
class Domain:
    """What parameters refer to.

    Attributes:
        settings: The sections of the configuration that trials read.
        arch: Architecture of the dense model, with L blocks.
        datasets: Names of the data sets.
        sensitivity: (L,) Fisher information s_b of the blocks; ones if the study has none.
        curves: Predicted loss of each width of each site; None if the study has none.
        start: Widths of the model to prune if it is pruned already; None if it is dense.
        reference: Architecture of the unpruned model that fractions refer to, if that has another side; else None.
    """

    settings: TrialSettings
    arch: Architecture
    datasets: tuple[str, ...]
    sensitivity: npt.NDArray[np.float64]
    curves: PerSite | None = None
    start: ModelSpec | None = None
    reference: Architecture | None = None

    @property
    def prices(self) -> Prices:
        """Cost of each site."""
        return self.settings.prices or linear_prices(self.arch, self.settings.search.metric)

    def own_share(self, fraction: float) -> float:
        """Return a share of the reference's cost as a share of the cost of the unpruned model at this side (16.3).

        It is at most what the model to prune has.
        """
        if self.reference is None:
            return fraction
        whole = linear_prices(self.reference, self.settings.search.metric).dense
        most = 1.0 if self.start is None else start_share(self.start, self.prices)
        return min(fraction * whole / self.prices.dense, most)

    @property
    def dimensions(self) -> dict[str, Range | Choices | Fixed]:
        """The dimensions by name, in the order in which they are drawn.

        `mixture` stands for one per data set. Fractions end at what a pruned model has, because larger ones remove
        nothing. `lean` is fixed where it would treat all families alike.
        """
        schedule = {name: Fixed(getattr(self.settings.schedule, name)) for name in _SCHEDULE}
        found: dict[str, Range | Choices | Fixed] = {}
        for name, dimension in self.settings.search.space:
            if isinstance(dimension, Mapping):
                found |= {f"{name}_{family.name}": dimension[family.name] for family in self.arch.families}
            elif dimension is not None:
                found[name] = dimension
            elif name not in (*_RECOVERY, _SIDE):
                found[name] = schedule[name]
        if len({family.lean for family in self.arch.families}) == 1:
            found["lean"] = Fixed(0.0)
        if self.start is not None:
            found["fraction"] = below(found["fraction"], start_share(self.start, self.prices))
        return found


@dataclass(frozen=True)
class Plan:
    """A decoded trial.

    It holds everything that distinguishes the trial from the others of its study. Without a learning rate (`lr`) or
    a number of steps of its own the section `recovery` decides.
    """

    spec: ModelSpec
    weights: ScoringWeights
    lr: float | None
    steps: int | None
    head_share: float
    order: str
    rounds: int
    rescore: bool
    rescore_per_dataset: int


def domain_of(shared: Shared) -> Domain:
    """Return what the parameters of a study's trials refer to."""
    profile = shared.table.profile
    sensitivity = known_sensitivity(shared.table, shared.settings.scoring.weights())
    curves = None if profile is None else profile.dense_curves(shared.arch)
    return Domain(shared.settings, shared.arch, shared.datasets, sensitivity, curves, shared.start, shared.reference)


def start_share(start: ModelSpec, prices: Prices) -> float:
    """Return the share of the dense encoder's cost that a model has before it is pruned."""
    return prices.total(start) / prices.dense


def check_fractions(settings: TrialSettings, start: ModelSpec) -> None:
    """Check that some sampled fraction removes something of the model to prune.

    It needs no computation on models, so it runs before any.

    Raises:
        MedcoreError: None does.
    """
    if not start.is_dense:
        prices = settings.prices or linear_prices(start.arch, settings.search.metric)
        below(settings.search.space.fraction, start_share(start, prices))


def below(dimension: Range | Choices | Fixed, share: float) -> Range | Choices | Fixed:
    """Return the part of a dimension of fractions that removes something of a model with this share.

    Raises:
        MedcoreError: Nothing is left.
    """
    values = [float(value) for value in dimension.values]
    if isinstance(dimension, Range) and values[0] < share:
        return dimension.model_copy(update={"high": min(values[1], share)})
    kept = () if isinstance(dimension, Range) else tuple(value for value in values if value < share)
    if not kept:
        raise ConfigError(
            f"search.space.fraction: from {min(values):g} on nothing is removed, because the model to prune has "
            f"{share:.4f} of the dense encoder's cost; fractions are shares of the dense encoder, so give smaller ones"
        )
    return Choices(choices=kept) if isinstance(dimension, Choices) else dimension


def sample(trial: Draws, domain: Domain) -> Params:
    """Return one trial's parameters. Fixed dimensions are among them."""
    params: Params = {}
    for name, dimension in domain.dimensions.items():
        names = [f"mixture/{dataset}" for dataset in domain.datasets] if name == "mixture" else [name]
        params.update({each: dimension.draw(trial, each) for each in names})
    if domain.settings.search.space.draws_residuals:
        for name in residual_names(domain.arch):
            params[name] = trial.suggest_float(name, -1.0, 1.0)
    return params


def decode(params: Mapping[str, Any], domain: Domain) -> Plan:
    """Return what the parameters mean.

    A fraction below what pruning can reach counts as the smallest reachable one.
    """
    if EXACT in params:
        exact = params[EXACT]
        spec = ModelSpec.of(domain.arch, exact)
        weights = ScoringWeights.from_dict(exact["weights"])
    else:
        spec, weights = _budget(params, domain), _weights(params, domain)
    return Plan(spec=spec, weights=weights, **schedule_fields(params))


def schedule_fields(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan that describe how it is cut and recovered."""
    steps = params.get("steps")
    return {
        "lr": params.get("lr"),
        "steps": None if steps is None else round(steps),
        "head_share": params["head_share"],
        "order": params["order"],
        "rounds": int(params["rounds"]),
        "rescore": params["rescore"],
        "rescore_per_dataset": int(params["rescore_per_dataset"]),
    }


def _budget(params: Mapping[str, Any], domain: Domain) -> ModelSpec:
    arch, metric = domain.arch, domain.settings.search.metric
    protected = last_blocks(arch, int(params["protected_last"]))
    limits = Limits(protected, multiple=domain.settings.budget.multiple, current=domain.start)
    fraction = domain.own_share(params["fraction"])
    shape = preferences(params, arch, domain.sensitivity)
    if params.get("shape", SHARES) == SHARES:  # trials that were issued before curves existed name no shape
        fraction = max(fraction, smallest_fraction(arch, metric, protected, domain.start))
        return to_target(arch, shape, fraction, metric, limits)
    if domain.curves is None:
        raise ConfigError("search.space.shape: curves need the second-order profile, which this study lacks")
    prices = domain.prices
    fraction = max(fraction, smallest_share(arch, domain.curves, prices, limits))
    options = {"multipliers": shape, "exponent": params["exponent"], "prices": prices}
    return knapsack_budget(arch, domain.curves, fraction, limits=limits, **options)


def _weights(params: Mapping[str, Any], domain: Domain) -> ScoringWeights:
    alpha = {family.name: params[f"alpha_{family.name}"] for family in domain.arch.families}
    mixture = {dataset: float(params[f"mixture/{dataset}"]) for dataset in domain.datasets}
    total = sum(mixture.values())
    return ScoringWeights(
        alpha=dict.fromkeys(alpha) if params["adaptive_alpha"] else alpha,
        beta=params["beta"],
        mixture={dataset: weight / total for dataset, weight in mixture.items()},
        boundary_weight=float(params["boundary_weight"]),
        tau=params["tau"],
        criterion=params["criterion"],
        blend=params["blend"],
        seed=domain.settings.seed,
        correlation_over=domain.settings.scoring.correlation_over,
    )


def encode_fraction(fraction: float, domain: Domain) -> Params:
    """Return the parameters of the pure knapsack at a share of the cost.

    Dimensions whose range leaves out their neutral value take the nearest one.
    """
    weights = domain.settings.scoring.weights(domain.settings.seed)
    return _nearest(fraction, weights, domain)


def encode_budget(spec: ModelSpec, fraction: float, weights: ScoringWeights, domain: Domain) -> Params:
    """Return the parameters nearest to a budget made by hand.

    Budget and weights themselves are under `EXACT`. If the space is shaped around uniform budgets, the residuals hold
    the budget's shape, and the sampler can learn from the parameters. Values outside a dimension's range move to its
    nearest end, because the sampler knows no others.
    """
    params = _nearest(fraction, weights, domain)
    if domain.settings.search.space.draws_residuals:
        shape = log_shares(spec)
        spread = float(domain.dimensions["spread"].nearest(float(np.abs(shape).max())))
        residuals = np.clip(shape / spread, -1, 1) if spread > 0 else np.zeros_like(shape)
        params |= {"spread": spread, **dict(zip(residual_names(spec.arch), residuals.tolist(), strict=True))}
    return params | {EXACT: {**spec.budget, "weights": weights.to_dict()}}


def _nearest(fraction: float, weights: ScoringWeights, domain: Domain) -> Params:
    """Return parameters without a shape of their own, each the nearest to what the settings say."""
    dimensions, recovery = domain.dimensions, domain.settings.recovery
    wanted = {
        **dict.fromkeys(neutral_names(domain.arch), 0.0),
        "shape": CURVES,
        "exponent": 1.0,
        "protected_last": 0,
        "fraction": fraction,
        "spread": 0.0,
        **_wanted_weights(weights, domain.arch),
        "head_share": recovery.head_share,
        **{name: getattr(domain.settings.schedule, name) for name in _SCHEDULE},
    }
    mixture = weights.mixture or dict.fromkeys(domain.datasets, 1.0)
    total = sum(mixture.values())
    params: Params = {name: dimensions[name].nearest(value) for name, value in wanted.items()}
    own = {"lr": recovery.rate(fraction), "steps": recovery.steps, _SIDE: domain.arch.img_size}
    params |= {name: dimensions[name].nearest(value) for name, value in own.items() if name in dimensions}
    for dataset in domain.datasets:
        params[f"mixture/{dataset}"] = dimensions["mixture"].nearest(mixture.get(dataset, 0.0) / total)
    if domain.settings.search.space.draws_residuals:
        params |= dict.fromkeys(residual_names(domain.arch), 0.0)
    return params


def _wanted_weights(weights: ScoringWeights, arch: Architecture) -> Params:
    """Return the scoring weights as parameters; 0.5 stands for an α that is not used."""
    alphas = {family.name: weights.alpha.get(family.name) for family in arch.families}
    return {
        "criterion": weights.criterion,
        "blend": weights.blend,
        "adaptive_alpha": alphas[arch.families[0].name] is None,
        **{f"alpha_{family}": 0.5 if alpha is None else alpha for family, alpha in alphas.items()},
        "beta": weights.beta,
        "boundary_weight": weights.boundary_weight,
        "tau": weights.tau,
    }
