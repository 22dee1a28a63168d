"""Optuna behind Ray Tune's `Searcher`, for several objectives, with the study's memory on disk instead of in pickles.

Tune's own `OptunaSearch` is not used: it can only be resumed from a pickle, leaves a trial with a NaN objective running
for ever, and cannot be given finished trials when the space is a function.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from medcore.errors import MedcoreError, StorageError
from results.store.trials import all_rows
from search.base.objectives import Objective, Row, values_of
from search.trials.ledger import ROW_WRITTEN, Issued, all_issued, visible_row, write_issued

logger = logging.getLogger(__name__)

#: Draws a trial's parameters from an `optuna.Trial` (or anything with its `suggest_*`) and returns all of them.
Space = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class SamplerSettings:
    """`name`: tpe, nsga2 or random. `startup`: random trials before TPE has a model; warm starts count.

    `population`: NSGA-II's; by default a quarter of the trials, between 8 and Optuna's 50, so that a short search still
    gets a few generations.
    """

    name: str = "tpe"
    seed: int = 0
    startup: int = 10
    population: int | None = None


def make_sampler(settings: SamplerSettings, number: int, trials: int) -> BaseSampler:
    """The sampler for trial `number`, seeded by it, so that a resumed search does not draw the same points again.

    Multivariate TPE models parameters jointly, which pays with few trials; its constant liar keeps trials that
    run side by side apart. Raises `MedcoreError` for an unknown name.
    """
    seed = derived_seed(settings.seed, number, stream=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if settings.name == "tpe":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=settings.startup)
        if settings.name == "nsga2":
            size = settings.population or min(50, max(8, trials // 4))
            return NSGAIISampler(seed=seed, population_size=size)
        if settings.name == "random":
            return RandomSampler(seed=seed)
    raise MedcoreError(f"unknown sampler '{settings.name}': use tpe, nsga2 or random")


def derived_seed(seed: int, number: int, stream: int = 0) -> int:
    """A trial's own 31-bit seed: the same for the same study seed and number, unrelated between numbers and streams."""
    return int(np.random.SeedSequence([abs(seed), number, stream]).generate_state(1)[0] >> 1)


class StudySearch(Searcher):
    """Hands out interrupted trials first, then warm starts, then the sampler's own; tells it what came of them.

    Rows and `params.json` already in the study folder are taken in when it is built; a resumed study needs no more.

    Args:
        study_dir: the study's folder.
        space: draws all parameters of one trial.
        objectives: what is optimised; a row without finite values for all of them is told as failed.
        warm_starts: `{"origin": str, "params": {...}}` in order; parameters that the space does not draw go along
            as they are, ones that are absent are sampled.
        trials: size of the whole search.
        at_once: how many trials may be handed out and not ended, asked anew each time; None for any number.
        stop: set when the user wants it to end.

    Attributes:
        problem: why no further trial starts, or None.
    """

    def __init__(
        self,
        study_dir: Path,
        space: Space,
        objectives: Sequence[Objective],
        warm_starts: Sequence[Mapping[str, Any]] = (),
        settings: SamplerSettings | None = None,
        trials: int = 1,
        at_once: Callable[[], int] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._dir, self._space, self._objectives = study_dir, space, tuple(objectives)
        self._settings, self._trials = settings or SamplerSettings(), trials
        self._at_once, self._stop = at_once, stop
        self.problem: str | None = None
        self._paused = False
        self._running: dict[str, tuple[Issued, optuna.Trial]] = {}
        self._study = optuna.create_study(
            directions=[objective.optuna_direction for objective in objectives],
            sampler=make_sampler(self._settings, 0, trials),
        )
        issued = {trial.trial_id: trial for trial in all_issued(study_dir)}
        rows = {str(row["trial_id"]): row for row in all_rows(study_dir)}
        for trial_id, row in rows.items():
            self._remember(issued.get(trial_id) or _issued_from(row), row)
        self._interrupted = deque(trial for key, trial in issued.items() if key not in rows)
        numbers = [trial.number for trial in issued.values()] + [row["number"] for row in rows.values()]
        self._next = max(numbers, default=-1) + 1
        self._warm = dict(enumerate(warm_starts))

    def end(self, problem: str) -> None:
        """Let no further trial start; those under way go on to their end."""
        if self.problem is None:
            logger.warning("no further trial starts: %s", problem)
            self.problem = problem

    def pause(self) -> None:
        """Let no further trial start in this run of Tune, for another one goes on."""
        self._paused = True

    def suggest(self, trial_id: str) -> Any:
        """Tune's request for one trial: `{"trial_id": ...}`, after its `params.json` is on disk.

        `Searcher.FINISHED` after `end` or `pause`, or if the file cannot be written; None while there are enough.
        """
        if self._paused or self.problem is not None:
            return Searcher.FINISHED
        if self._at_once is not None and len(self._running) >= self._at_once():
            return None
        if self._interrupted:
            issued = self._interrupted.popleft()
            trial, _ = self._ask(issued.number, issued.params)
        else:
            number, self._next = self._next, self._next + 1
            warm = self._warm.get(number, {})
            trial, params = self._ask(number, warm.get("params"))
            issued = Issued(
                trial_id=f"t{number:04d}",
                number=number,
                seed=derived_seed(self._settings.seed, number),
                origin=str(warm.get("origin", "sampled")),
                params=params,
                sampler_state=_sampler_state(trial),
            )
            try:
                write_issued(self._dir, issued)
            except StorageError as error:
                self.end(str(error))
                return Searcher.FINISHED
        self._running[trial_id] = issued, trial
        return {"trial_id": issued.trial_id}

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """Tell the sampler what the row on disk says; without a usable row the trial counts as failed.

        A row that the trial's worker says it has written is waited for.
        """
        if trial_id not in self._running:
            return
        issued, trial = self._running.pop(trial_id)
        written = bool(result and result.get(ROW_WRITTEN))
        row = visible_row(self._dir, issued.trial_id, wait=written, stop=self._stop)
        values = values_of(row, self._objectives)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, values)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a `Tuner.restore`; here the study's folder is the memory."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing, for the same reason."""

    def restore(self, checkpoint_path: str) -> None:
        """Raises `RuntimeError`: the folder is the memory."""
        raise RuntimeError(f"{checkpoint_path}: a StudySearch keeps no such file; build one on {self._dir} instead")

    def _ask(self, number: int, known: Mapping[str, Any] | None) -> tuple[optuna.Trial, dict[str, Any]]:
        self._study.sampler = make_sampler(self._settings, number, self._trials)
        if known is not None:
            self._study.enqueue_trial(dict(known))
        trial = self._study.ask()
        if known is not None and self._settings.name == "nsga2":
            # A trial enters NSGA-II's generation only when relative parameters are drawn, which fixed ones never do.
            _ = trial.relative_params
        params = self._space(trial)
        return trial, {**params, **{key: value for key, value in (known or {}).items() if key not in params}}

    def _remember(self, issued: Issued, row: Row) -> None:
        """Add an ended trial to the Optuna study."""
        fixed = optuna.trial.FixedTrial(issued.params)
        values = values_of(row, self._objectives)
        try:
            self._space(fixed)
            past = optuna.trial.create_trial(
                state=TrialState.FAIL if values is None else TrialState.COMPLETE,
                values=values,
                params=fixed.params,
                distributions=fixed.distributions,
                system_attrs=issued.sampler_state,
            )
        except (ValueError, KeyError):
            raise MedcoreError(
                f"{self._dir}: trial {issued.trial_id} does not fit the search space; resume with the configuration "
                "that the study was started with, or start another study"
            ) from None
        self._study.add_trial(past)


def _issued_from(row: Row) -> Issued:
    known = {key: value for key, value in row.items() if key.startswith("param/") and value is not None}
    params = {key.removeprefix("param/"): value for key, value in known.items()}
    return Issued(str(row["trial_id"]), int(row["number"]), int(row.get("seed") or 0), str(row.get("origin")), params)


def _sampler_state(trial: optuna.Trial) -> dict[str, Any]:
    """System attributes of scalar kind, less the fixed parameters: NSGA-II keeps the generation there."""
    attributes = trial.study.get_trials(deepcopy=False)[trial.number].system_attrs
    return {key: value for key, value in attributes.items() if isinstance(value, (bool, int, float, str))}
