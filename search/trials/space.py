"""What a trial samples, and what the sampled parameters mean.

`sample` asks the sampler, `decode` turns its flat parameters into a budget, scoring weights, a schedule and recovery
settings, and `encode_budget` goes back from a budget to the nearest parameters, so that hand-made budgets can
warm-start the search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from medcore.budgets.rule import smallest_fraction, to_target
from medcore.models.spec import Architecture, EncoderSpec
from medcore.scoring.criteria import ScoringWeights, block_sensitivity
from medcore.training.orders import Order
from search.base.config import Config, scoring_weights
from search.base.dimensions import Choices, Range
from search.study.inputs import Shared

Params = dict[str, Any]

#: Smallest keep share that a preference stands for; below it a block's share is as good as zero.
_LEAST_SHARE = 1 / 64
#: Dimensions that the `schedule` section decides where the space leaves them open.
_SCHEDULE = ("order", "rounds", "rescore", "rescore_per_dataset")
#: Key of a warm start's exact budget and scoring weights, which override what the other parameters say.
EXACT = "exact"


class Sampler(Protocol):
    """The part of `optuna.Trial` that is used."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Domain:
    """What parameters refer to; `sensitivity`: (L,) Fisher information s_b of the blocks."""

    config: Config
    arch: Architecture
    datasets: tuple[str, ...]
    sensitivity: npt.NDArray[np.float64]

    @property
    def dimensions(self) -> dict[str, Any]:
        """Name -> range, choices or fixed value; `mixture` still stands for one dimension a data set."""
        found = dict(self.config.search.space)
        for name in _SCHEDULE:
            if found[name] is None:
                value = getattr(self.config.schedule, name)
                found[name] = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        return found


@dataclass(frozen=True)
class Plan:
    """A decoded trial: everything that the trial does differently from its siblings."""

    spec: EncoderSpec
    weights: ScoringWeights
    lr: float
    head_share: float
    order: Order
    rounds: int
    rescore: bool
    rescore_per_dataset: int


def domain_of(shared: Shared) -> Domain:
    """What the parameters of a study's trials refer to."""
    sensitivity = block_sensitivity(shared.table, scoring_weights(shared.config.scoring))
    return Domain(shared.config, shared.arch, shared.datasets, sensitivity)


def residual_names(arch: Architecture) -> list[str]:
    """Flat parameter names of the per-block residuals: heads first, then channels."""
    return [f"{family}/{block:02d}" for family in ("heads", "channels") for block in range(arch.depth)]


def sample(trial: Sampler, domain: Domain) -> Params:
    """Draw one trial's parameters; fixed dimensions are written into the result as they are."""
    params: Params = {}
    for name, dimension in domain.dimensions.items():
        if name == "mixture":
            for dataset in domain.datasets:
                params[f"mixture/{dataset}"] = _draw(trial, f"mixture/{dataset}", dimension)
        else:
            params[name] = _draw(trial, name, dimension)
    for name in residual_names(domain.arch):
        params[name] = trial.suggest_float(name, -1.0, 1.0)
    return params


def _draw(trial: Sampler, name: str, dimension: Any) -> Any:
    if isinstance(dimension, Range):
        return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(name, dimension.choices)
    return dimension


def preferences(params: Mapping[str, Any], domain: Domain) -> tuple[np.ndarray, np.ndarray]:
    """Per-block preferences for heads and channels, each (L,), positive; only their ratios matter."""
    arch = domain.arch
    depth = np.linspace(-1, 1, arch.depth)
    is_global = np.array([arch.window(block) == 0 for block in range(arch.depth)], dtype=float)
    residuals = np.array([params[name] for name in residual_names(arch)]).reshape(2, arch.depth)
    sensitivity = _log_scaled(domain.sensitivity)
    powers = []
    for family, sign, residual in (("heads", 1, residuals[0]), ("channels", -1, residuals[1])):
        powers.append(
            sign * params["lean"] / 2
            + params[f"slope_{family}"] * depth
            + params["global_bonus"] * is_global
            + params[f"follow_{family}"] * sensitivity
            + params["spread"] * residual
        )
    return np.exp2(powers[0]), np.exp2(powers[1])


def _log_scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithms less their mean, the largest ±1; all 0 where blocks do not differ."""
    logs = np.log2(np.maximum(values, 1e-12 * max(float(values.max()), 1e-300)))
    centred = logs - logs.mean()
    largest = float(np.abs(centred).max())
    return centred / largest if largest > 0 else centred


def decode(params: Mapping[str, Any], domain: Domain) -> Plan:
    """What the parameters mean. A fraction below what pruning can reach counts as the smallest reachable one."""
    config, arch = domain.config, domain.arch
    if EXACT in params:
        exact = params[EXACT]
        spec = EncoderSpec(arch, tuple(exact["heads"]), tuple(exact["channels"]))
        weights = ScoringWeights(**exact["weights"])
    else:
        protected = range(max(0, arch.depth - int(params["protected_last"])), arch.depth)
        least = smallest_fraction(arch, config.search.cost, protected)
        heads, channels = preferences(params, domain)
        spec = to_target(
            arch, heads, channels, max(params["fraction"], least), metric=config.search.cost, protected=protected,
            multiple=config.budget.channel_multiple,
        )  # fmt: skip
        weights = _weights(params, domain)
    return Plan(
        spec=spec,
        weights=weights,
        lr=params["lr"],
        head_share=params["head_share"],
        order=cast(Order, params["order"]),
        rounds=int(params["rounds"]),
        rescore=params["rescore"] == "yes",
        rescore_per_dataset=int(params["rescore_per_dataset"]),
    )


def _weights(params: Mapping[str, Any], domain: Domain) -> ScoringWeights:
    adaptive = params["adaptive_alpha"] == "yes"
    mixture = {dataset: float(params[f"mixture/{dataset}"]) for dataset in domain.datasets}
    total = sum(mixture.values())
    return ScoringWeights(
        alpha_heads=None if adaptive else params["alpha_heads"],
        alpha_channels=None if adaptive else params["alpha_channels"],
        beta=params["beta"],
        mixture={dataset: weight / total for dataset, weight in mixture.items()},
        boundary_weight=float(params["boundary_weight"]),
        tau=params["tau"],
        criterion=params["criterion"],
        blend=params["blend"],
        seed=domain.config.seed,
    )


def encode_budget(spec: EncoderSpec, fraction: float, weights: ScoringWeights, domain: Domain) -> Params:
    """Parameters nearest to a budget made by hand, and the budget and weights themselves under `EXACT`.

    The sampler learns from the parameters: the budget's shape is in the residuals; values outside a dimension's range
    are moved to its nearest end, because the sampler knows no others.
    """
    dimensions, arch = domain.dimensions, spec.arch
    shares = np.concatenate([np.array(spec.heads) / arch.num_heads, np.array(spec.channels) / arch.mlp_dim])
    log_shares = np.log2(np.maximum(shares, _LEAST_SHARE))
    centred = log_shares - log_shares.mean()
    needed = float(np.abs(centred).max())
    spread = _nearest(dimensions["spread"], needed)
    residuals = np.clip(centred / spread, -1, 1) if spread > 0 else np.zeros_like(centred)
    neutral = ("lean", "slope_heads", "slope_channels", "global_bonus", "follow_heads", "follow_channels")
    wanted: dict[str, Any] = dict.fromkeys((*neutral, "protected_last"), 0.0)
    wanted |= {
        "fraction": fraction,
        "spread": needed,
        "criterion": weights.criterion,
        "blend": weights.blend,
        "adaptive_alpha": "yes" if weights.alpha_heads is None else "no",
        "alpha_heads": 0.5 if weights.alpha_heads is None else weights.alpha_heads,
        "alpha_channels": 0.5 if weights.alpha_channels is None else weights.alpha_channels,
        "beta": weights.beta,
        "boundary_weight": weights.boundary_weight,
        "tau": weights.tau,
        "lr": domain.config.recovery.lr,
        "head_share": domain.config.recovery.head_share,
    }
    schedule = domain.config.schedule
    wanted |= {
        "order": schedule.order,
        "rounds": float(schedule.rounds),
        "rescore": "yes" if schedule.rescore else "no",
        "rescore_per_dataset": float(schedule.rescore_per_dataset),
    }
    mixture = weights.mixture or dict.fromkeys(domain.datasets, 1.0)
    total = sum(mixture.values())
    params: Params = {name: _nearest(dimensions[name], value) for name, value in wanted.items()}
    for dataset in domain.datasets:
        params[f"mixture/{dataset}"] = _nearest(dimensions["mixture"], mixture.get(dataset, 0.0) / total)
    params.update(zip(residual_names(arch), residuals.tolist(), strict=True))
    exact = {"heads": list(spec.heads), "channels": list(spec.channels), "weights": dataclasses.asdict(weights)}
    return params | {EXACT: exact}


def _nearest(dimension: Any, value: Any) -> Any:
    if isinstance(dimension, Range):
        return min(max(float(value), dimension.low), dimension.high)
    if isinstance(dimension, Choices):
        if value in dimension.choices:
            return value
        numbers = [choice for choice in dimension.choices if isinstance(choice, float)]
        return min(numbers, key=lambda choice: abs(choice - value)) if numbers else dimension.choices[0]
    return dimension
