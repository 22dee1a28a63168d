"""What a trial samples, and what the sampled parameters mean.

`sample` draws flat parameters. `decode` turns them into a budget, scoring weights, a schedule and recovery settings.
`encode_budget` finds the parameters that are nearest to a budget made by hand, so that such budgets can warm-start the
search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.budgets.limits import Limits, smallest_fraction
from medcore.budgets.targets import to_target
from medcore.models.spec import Architecture, ModelSpec
from medcore.scoring.criteria import ScoringWeights, block_sensitivity
from search.base.sections.dimensions import Choices, Draws, Fixed, Range
from search.study.inputs import Shared, TrialSettings
from search.trials.sampling.preferences import log_shares, neutral_names, preferences, residual_names

Params = dict[str, Any]

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
        sensitivity: (L,) Fisher information s_b of the blocks.
    """

    settings: TrialSettings
    arch: Architecture
    datasets: tuple[str, ...]
    sensitivity: npt.NDArray[np.float64]

    @property
    def dimensions(self) -> dict[str, Range | Choices | Fixed]:
        """The dimensions by name, in the order in which they are drawn.

        `mixture` stands for one per data set.
        """
        schedule = {name: Fixed(getattr(self.settings.schedule, name)) for name in _SCHEDULE}
        found: dict[str, Range | Choices | Fixed] = {}
        for name, dimension in self.settings.search.space:
            if isinstance(dimension, Mapping):
                found |= {f"{name}_{family.name}": dimension[family.name] for family in self.arch.families}
            else:
                found[name] = schedule[name] if dimension is None else dimension
        return found


@dataclass(frozen=True)
class Plan:
    """A decoded trial.

    It holds everything that distinguishes the trial from the others of its study.
    """

    spec: ModelSpec
    weights: ScoringWeights
    lr: float
    head_share: float
    order: str
    rounds: int
    rescore: bool
    rescore_per_dataset: int


def domain_of(shared: Shared) -> Domain:
    """Return what the parameters of a study's trials refer to."""
    sensitivity = block_sensitivity(shared.table, shared.settings.scoring.weights())
    return Domain(shared.settings, shared.arch, shared.datasets, sensitivity)


def sample(trial: Draws, domain: Domain) -> Params:
    """Return one trial's parameters. Fixed dimensions are among them."""
    params: Params = {}
    for name, dimension in domain.dimensions.items():
        names = [f"mixture/{dataset}" for dataset in domain.datasets] if name == "mixture" else [name]
        params.update({each: dimension.draw(trial, each) for each in names})
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
    return {
        "lr": params["lr"],
        "head_share": params["head_share"],
        "order": params["order"],
        "rounds": int(params["rounds"]),
        "rescore": params["rescore"],
        "rescore_per_dataset": int(params["rescore_per_dataset"]),
    }


def _budget(params: Mapping[str, Any], domain: Domain) -> ModelSpec:
    arch, metric = domain.arch, domain.settings.search.cost
    depth = len(arch.blocks)
    protected = tuple(range(max(0, depth - int(params["protected_last"])), depth))
    fraction = max(params["fraction"], smallest_fraction(arch, metric, protected))
    limits = Limits(protected, multiple=domain.settings.budget.multiple)
    return to_target(arch, preferences(params, arch, domain.sensitivity), fraction, metric, limits)


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
    )


def encode_budget(spec: ModelSpec, fraction: float, weights: ScoringWeights, domain: Domain) -> Params:
    """Return the parameters nearest to a budget made by hand.

    Budget and weights themselves are under `EXACT`. The sampler learns from the parameters. The residuals hold the
    budget's shape. Values outside a dimension's range move to its nearest end, because the sampler knows no others.
    """
    dimensions = domain.dimensions
    shape = log_shares(spec)
    needed = float(np.abs(shape).max())
    spread = float(dimensions["spread"].nearest(needed))
    residuals = np.clip(shape / spread, -1, 1) if spread > 0 else np.zeros_like(shape)
    wanted = {
        **dict.fromkeys(neutral_names(spec.arch), 0.0),
        "protected_last": 0,
        "fraction": fraction,
        "spread": needed,
        **_wanted_weights(weights, spec.arch),
        "lr": domain.settings.recovery.lr,
        "head_share": domain.settings.recovery.head_share,
        **{name: getattr(domain.settings.schedule, name) for name in _SCHEDULE},
    }
    mixture = weights.mixture or dict.fromkeys(domain.datasets, 1.0)
    total = sum(mixture.values())
    params: Params = {name: dimensions[name].nearest(value) for name, value in wanted.items()}
    for dataset in domain.datasets:
        params[f"mixture/{dataset}"] = dimensions["mixture"].nearest(mixture.get(dataset, 0.0) / total)
    params.update(zip(residual_names(spec.arch), residuals.tolist(), strict=True))
    return params | {EXACT: {**spec.budget, "weights": weights.to_dict()}}


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
