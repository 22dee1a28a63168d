"""What a trial samples, and what the sampled parameters mean.

`sample` asks the sampler, `decode` turns its flat parameters into a budget, scoring weights and recovery settings, and
`encode_budget` goes back from a budget to the nearest parameters, so that hand-made budgets can warm-start the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from medcore.budgets import to_target
from medcore.scores import ScoringWeights
from medcore.spec import Architecture, EncoderSpec
from search.config import Choices, Config, Dimension, Range

Params = dict[str, Any]

#: Smallest keep share that a preference stands for; below it a block's share is as good as zero.
_LEAST_SHARE = 1 / 64


class Sampler(Protocol):
    """The part of `optuna.Trial` that is used."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """A decoded trial: everything that the trial does differently from its siblings."""

    spec: EncoderSpec
    weights: ScoringWeights
    lr: float
    head_share: float


def residual_names(arch: Architecture) -> list[str]:
    """Flat parameter names of the per-block residuals: heads first, then channels."""
    return [f"{family}/{block:02d}" for family in ("heads", "channels") for block in range(arch.depth)]


def sample(trial: Sampler, config: Config, arch: Architecture, datasets: Sequence[str]) -> Params:
    """Draw one trial's parameters; fixed dimensions are written into the result as they are."""
    params: Params = {}
    for name, dimension in config.search.space:
        if name == "mixture":
            for dataset in datasets:
                params[f"mixture/{dataset}"] = _draw(trial, f"mixture/{dataset}", dimension)
        else:
            params[name] = _draw(trial, name, dimension)
    for name in residual_names(arch):
        params[name] = trial.suggest_float(name, -1.0, 1.0)
    return params


def _draw(trial: Sampler, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Range):
        return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(name, dimension.choices)
    return dimension


def preferences(params: Mapping[str, Any], arch: Architecture) -> tuple[np.ndarray, np.ndarray]:
    """Per-block preferences for heads and channels, each (L,), positive; only their ratios matter."""
    depth = np.linspace(-1, 1, arch.depth)
    is_global = np.array([arch.window(block) == 0 for block in range(arch.depth)], dtype=float)
    residuals = np.array([params[name] for name in residual_names(arch)]).reshape(2, arch.depth)
    common = params["global_bonus"] * is_global
    heads = params["lean"] / 2 + params["slope_heads"] * depth + common + params["spread"] * residuals[0]
    channels = -params["lean"] / 2 + params["slope_channels"] * depth + common + params["spread"] * residuals[1]
    return np.exp2(heads), np.exp2(channels)


def decode(params: Mapping[str, Any], config: Config, arch: Architecture, datasets: Sequence[str]) -> Plan:
    """What the parameters mean. A warm start's exact budget (`budget`) overrides the preferences."""
    if "budget" in params:
        spec = EncoderSpec(arch, tuple(params["budget"]["heads"]), tuple(params["budget"]["channels"]))
    else:
        heads, channels = preferences(params, arch)
        spec = to_target(arch, heads, channels, params["fraction"], metric=config.search.cost)
    adaptive = params["adaptive_alpha"] == "yes"
    mixture = {dataset: float(params[f"mixture/{dataset}"]) for dataset in datasets}
    total = sum(mixture.values())
    weights = ScoringWeights(
        alpha_heads=None if adaptive else params["alpha_heads"],
        alpha_channels=None if adaptive else params["alpha_channels"],
        beta=params["beta"],
        mixture={dataset: weight / total for dataset, weight in mixture.items()},
        boundary_weight=float(params["boundary_weight"]),
        tau=params["tau"],
    )
    return Plan(spec, weights, params["lr"], params["head_share"])


def encode_budget(spec: EncoderSpec, fraction: float, config: Config, datasets: Sequence[str]) -> Params:
    """Parameters nearest to a budget made by hand: its shape in the residuals, scoring weights of the configuration.

    Values outside a dimension's range are moved to its nearest end, because the sampler knows no others.
    """
    space, arch = config.search.space, spec.arch
    shares = np.concatenate([np.array(spec.heads) / arch.num_heads, np.array(spec.channels) / arch.mlp_dim])
    log_shares = np.log2(np.maximum(shares, _LEAST_SHARE))
    centred = log_shares - log_shares.mean()
    needed = float(np.abs(centred).max())
    spread = _nearest(space.spread, needed)
    residuals = np.clip(centred / spread, -1, 1) if spread > 0 else np.zeros_like(centred)
    scoring, recovery = config.scoring, config.recovery
    wanted = {
        "fraction": fraction,
        "lean": 0.0,
        "slope_heads": 0.0,
        "slope_channels": 0.0,
        "global_bonus": 0.0,
        "spread": needed,
        "adaptive_alpha": "yes" if scoring.alpha_heads is None else "no",
        "alpha_heads": 0.5 if scoring.alpha_heads is None else scoring.alpha_heads,
        "alpha_channels": 0.5 if scoring.alpha_channels is None else scoring.alpha_channels,
        "beta": scoring.beta,
        "boundary_weight": scoring.boundary_weight,
        "tau": scoring.tau,
        "lr": recovery.lr,
        "head_share": recovery.head_share,
    }
    params: Params = {name: _nearest(getattr(space, name), value) for name, value in wanted.items()}
    weight_of = scoring.mixture or {}
    for dataset in datasets:
        params[f"mixture/{dataset}"] = _nearest(space.mixture, weight_of.get(dataset, 1 / len(datasets)))
    params.update(zip(residual_names(arch), residuals.tolist(), strict=True))
    return params


def _nearest(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Range):
        return min(max(float(value), dimension.low), dimension.high)
    if isinstance(dimension, Choices):
        if value in dimension.choices:
            return value
        numbers = [choice for choice in dimension.choices if isinstance(choice, float)]
        return min(numbers, key=lambda choice: abs(choice - value)) if numbers else dimension.choices[0]
    return dimension
