"""Samplers by name: how a search chooses the parameters of its next trial.

A plug-in adds one with `SAMPLERS.register(name)(Sampler(factory))`. Optuna is imported only when a sampler is made,
because the configuration needs no more than the names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from medcore.registry import Registry

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

#: Constraint of an Optuna trial: share of it that was not run, because a scheduler stopped it. Above 0 is a violation.
MISSING = "missing"


@dataclass(frozen=True)
class SamplerSettings:
    """What a sampler is made from.

    Attributes:
        name: A name in `SAMPLERS`.
        seed: The study's seed.
        startup: Random trials before TPE has a model. Warm starts count.
        population: Size of NSGA-II's generations. None takes a quarter of the trials, between 8 and Optuna's 50, so
            that a short search still has a few generations.
        reach: Smallest share of the cost that a budget can meet, and the share of the model to prune. The sampler
            `gaps` stays between them.
        sides: If trials choose their side, what `reach` is at each, in shares of the same cost.
    """

    name: str = "gaps"
    seed: int = 0
    startup: int = 10
    population: int | None = None
    reach: tuple[float, float] = (0.0, 1.0)
    sides: Mapping[int, tuple[float, float]] = field(default_factory=dict)


#: Makes an Optuna sampler from the settings, a 31-bit seed and the number of trials of the whole search.
SamplerFactory = Callable[[SamplerSettings, int, int], "BaseSampler"]


@dataclass(frozen=True)
class Sampler:
    """One entry of `SAMPLERS`.

    Attributes:
        make: Makes the Optuna sampler of one trial.
        needs_relative: Whether the sampler notes a trial in its own records only when relative parameters are drawn.
            Such parameters are then drawn also for trials whose parameters are all fixed.
    """

    make: SamplerFactory
    needs_relative: bool = False


SAMPLERS: Registry[Sampler] = Registry("sampler")


def _gaps(settings: SamplerSettings, seed: int, trials: int) -> BaseSampler:
    """Return a sampler that halves gaps between shares of the cost, with TPE for all else."""
    from search.base.gaps import GapSampler

    return GapSampler(settings.reach, settings.sides, **_tpe_options(settings, seed))


def _tpe_options(settings: SamplerSettings, seed: int) -> dict[str, Any]:
    """Return TPE's options.

    A joint model of all parameters pays with few trials. The constant liar keeps apart trials that run at the same
    time.
    """
    return {"seed": seed, "multivariate": True, "constant_liar": True, "n_startup_trials": settings.startup}


def _tpe(settings: SamplerSettings, seed: int, trials: int) -> BaseSampler:
    """Return a TPE sampler."""
    from optuna.samplers import TPESampler

    return TPESampler(**_tpe_options(settings, seed))


def _nsga2(settings: SamplerSettings, seed: int, trials: int) -> BaseSampler:
    """Return an NSGA-II sampler."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=settings.population or min(50, max(8, trials // 4)))


def _gp(settings: SamplerSettings, seed: int, trials: int) -> BaseSampler:
    """Return a sampler that models each objective by a Gaussian process."""
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=settings.startup)


def _random(settings: SamplerSettings, seed: int, trials: int) -> BaseSampler:
    """Return a sampler that draws uniformly."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLERS.register("gaps")(Sampler(_gaps))
SAMPLERS.register("tpe")(Sampler(_tpe))
SAMPLERS.register("gp")(Sampler(_gp))
SAMPLERS.register("nsga2")(Sampler(_nsga2, needs_relative=True))
SAMPLERS.register("random")(Sampler(_random))


def make_sampler(settings: SamplerSettings, number: int, trials: int) -> BaseSampler:
    """Return the sampler of trial `number` in a search of `trials` trials.

    The seed depends on the number, so that a resumed search does not draw the same points again.

    Raises:
        MedcoreError: There is no sampler of this name.
    """
    from optuna.exceptions import ExperimentalWarning

    sampler = SAMPLERS[settings.name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return sampler.make(settings, derived_seed(settings.seed, number, stream=1), trials)


def derived_seed(seed: int, number: int, stream: int = 0) -> int:
    """Return the 31-bit seed of one trial.

    The same study seed and number give the same seed. Other numbers and streams give unrelated seeds.
    """
    return int(np.random.SeedSequence([abs(seed), number, stream]).generate_state(1)[0] >> 1)
