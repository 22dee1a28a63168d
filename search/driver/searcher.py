"""Optuna behind Ray Tune's `Searcher`, for several objectives, with the study's folder as its memory.

Tune's own `OptunaSearch` does not fit. It seeds one sampler a search instead of one a trial number, so that a resumed
search would draw other points; it drops what a starting point holds beyond the space; and it leaves a trial with a NaN
objective running for ever. Optuna's storages do not fit either, because the rows on disk are what counts: a second
record of the same trials could disagree with them after a kill.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from medcore.errors import MedcoreError, StorageError
from results.stats.columns import SAMPLED, is_average
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, trial_folder
from search.base.gaps import UNDESCRIBED
from search.base.objectives import last_fidelity, values_of
from search.base.samplers import MISSING, SAMPLERS, derived_seed, make_sampler
from search.base.schedulers import HALVING
from search.driver.finalists import WAIT, Finalist, next_finalist, next_to_repeat
from search.driver.job import SearchJob
from search.trials.files import CHECKPOINT
from search.trials.ledger import IssuedTrial, all_issued, visible_row, write_issued
from search.trials.sampling.space import EXACT

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)


class StudySearch(Searcher):
    """Issue trials, and report their results to the sampler.

    Interrupted trials come first, then warm starts, then sampled ones, and last repeats of the front's members and the
    means of their weights.

    It reads the rows and the `params.json` in the study's folder when it is built; a resumed study needs no more.

    Attributes:
        problem: Why no further trial starts, or None.
    """

    def __init__(
        self, job: SearchJob, at_once: Callable[[], int] | None = None, stop: threading.Event | None = None
    ) -> None:
        """Read the study.

        Args:
            job: What the search looks for.
            at_once: Returns how many trials may be issued and not ended. It is called before each trial; None allows
                any number.
            stop: Set when the user wants the search to end.

        Raises:
            MedcoreError: The study's trials do not fit the space, or its files are corrupt.
        """
        super().__init__()
        self._job = job
        self._at_once = at_once
        self._stop = stop
        self.problem: str | None = None
        self._paused = False
        self._waits = False  # until a trial ends, no further one is looked for
        self._running: dict[str, tuple[IssuedTrial, optuna.Trial]] = {}
        self._study = optuna.create_study(
            directions=[objective.optuna_direction for objective in job.objectives],
            sampler=make_sampler(job.sampler, 0, job.trials),
        )
        issued = {trial.trial_id: trial for trial in all_issued(job.study)}
        rows = {row.trial_id: row for row in all_rows(job.study)}
        for trial_id, row in rows.items():
            self._remember(issued.get(trial_id) or _issued_from(row), row)
        self._interrupted = deque(trial for key, trial in issued.items() if key not in rows)
        numbers = [trial.number for trial in issued.values()] + [row.number for row in rows.values()]
        self._next = max(numbers, default=-1) + 1
        origins = Counter(str((issued.get(key) or rows[key]).origin) for key in {**rows, **issued})
        self._starts = deque(_left(job.warm_starts, origins))

    def end(self, problem: str) -> None:
        """Let no further trial start; running trials continue to their end."""
        if self.problem is None:
            logger.warning("no further trial starts: %s", problem)
            self.problem = problem

    def pause(self) -> None:
        """Let no further trial start in this run of Tune; the next run continues."""
        self._paused = True

    def suggest(self, trial_id: str) -> Any:
        """Return one trial, as `{"trial_id": ...}`, after its `params.json` is on disk.

        Args:
            trial_id: Tune's id of the trial.

        Returns:
            `Searcher.FINISHED` after `end` or `pause`, or if the file cannot be written; None while enough trials run,
            and while the next trial has to wait for running ones.
        """
        if self._paused or self.problem is not None:
            return Searcher.FINISHED
        if self._waits or (self._at_once is not None and len(self._running) >= self._at_once()):
            return None
        if self._interrupted:
            issued = self._interrupted.popleft()
            trial, _ = self._ask(issued.number, issued.params, issued.teaches)
        else:
            try:
                found = self._issue()
            except StorageError as error:
                self.end(str(error))
                return Searcher.FINISHED
            if found is None:
                # nothing ends the waiting if no trial runs; a run that was put off is for the next run of Tune
                self._waits = bool(self._running)
                return None if self._waits else Searcher.FINISHED
            issued, trial = found
        self._running[trial_id] = issued, trial
        return {"trial_id": issued.trial_id}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the sampler what the row on disk says.

        Without a usable row the trial counts as failed.

        Wait for the row if the worker reported having written it.

        Args:
            trial_id: Tune's id of the trial.
            result: The trial's last result, a `StepResult`.
            error: Whether Tune gave the trial up.
        """
        if trial_id not in self._running:
            return
        issued, trial = self._running.pop(trial_id)
        self._waits = False
        written = bool(result and result.get("row_written"))
        row = visible_row(self._job.study, issued.trial_id, wait=written, stop=self._stop)
        state, values, missing = self._outcome(issued, row)
        if self._halved:
            trial.set_constraint(MISSING, missing)
        self._study.tell(trial, values, state=state)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, because the study's folder is the memory.

        Tune pickles its searcher for a `Tuner.restore`, which is not used here.
        """
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, for the same reason."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing, for the same reason."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse, because the study's folder is the memory.

        Raises:
            RuntimeError: Always.
        """
        study = self._job.study
        raise RuntimeError(f"{checkpoint_path}: a StudySearch keeps no such file; build one on {study} instead")

    def _issue(self) -> tuple[IssuedTrial, optuna.Trial] | None:
        """Draw the next trial and write its `params.json`; return None if it has to wait for others."""
        number = self._next
        finalist = self._finalist(number)
        if finalist == WAIT:
            return None
        self._next += 1
        start: Mapping[str, Any] = {}
        if isinstance(finalist, Finalist):
            start = {"origin": finalist.origin, "params": finalist.first.params, "teaches": False}
        elif self._starts:
            start = self._starts.popleft()
        teaches = bool(start.get("teaches", True))
        trial, params = self._ask(number, start.get("params"), teaches)
        issued = IssuedTrial(
            trial_id=f"t{number:04d}",
            number=number,
            seed=derived_seed(self._job.sampler.seed, number),
            origin=str(start.get("origin", SAMPLED)),
            params=params,
            sampler_state=_sampler_state(trial),
            teaches=teaches,
            repeats=finalist.repeats if isinstance(finalist, Finalist) else None,
            averages=finalist.averages if isinstance(finalist, Finalist) else (),
        )
        write_issued(self._job.study, issued)
        return issued, trial

    @property
    def _halved(self) -> bool:
        """Whether trials may have stopped at a fidelity, which the sampler learns as a violated constraint."""
        return self._job.scheduler.name == HALVING

    def _finalist(self, number: int) -> Finalist | Literal["wait"] | None:
        """Return what trial `number` repeats or averages; None if it does neither."""
        issued = all_issued(self._job.study)
        left = self._job.finalists - sum(trial.is_finalist for trial in issued)
        if left <= 0 or self._job.trials - number > left:
            return None
        rows = all_rows(self._job.study)
        if not self._job.averages:
            first = next_to_repeat(issued, rows, self._job.objectives)
            return None if first is None else Finalist(first)
        done = [row.trial_id for row in rows if row.is_done]
        gone = {name for name in done if not (trial_folder(self._job.study, name) / CHECKPOINT).is_file()}
        return next_finalist(issued, rows, self._job.objectives, left, gone)

    def _ask(self, number: int, known: Mapping[str, Any] | None, teaches: bool) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a trial of Optuna and all its parameters, with those that are known."""
        self._study.sampler = make_sampler(self._job.sampler, number, self._job.trials)
        if known is not None:
            self._study.enqueue_trial(dict(known))
        trial = self._study.ask()
        if not teaches:
            trial.set_user_attr(UNDESCRIBED, True)
        if known is not None and SAMPLERS[self._job.sampler.name].needs_relative:
            _ = trial.relative_params
        params = self._job.space(trial)
        return trial, {**params, **{key: value for key, value in (known or {}).items() if key not in params}}

    def _outcome(self, issued: IssuedTrial, row: TrialRow | None) -> tuple[TrialState, tuple[float, ...] | None, float]:
        """Return what the sampler learns of a row: state, values, and the share of the trial that is missing.

        A trial that a scheduler stopped has the values of its last fidelity. The missing share is a violated constraint
        in Optuna's words: the sampler prefers any trial that is done, and of stopped ones those that came further.
        """
        if not issued.teaches or row is None:
            return TrialState.FAIL, None, 1.0
        values = values_of(row, self._job.objectives)
        if values is not None:
            return TrialState.COMPLETE, values, 0.0
        reached, shown = last_fidelity(row, self._job.objectives)
        if shown is None:
            return TrialState.FAIL, None, 1.0
        return TrialState.COMPLETE, shown, 1 / (1 + reached)

    def _remember(self, issued: IssuedTrial, row: TrialRow) -> None:
        """Add an ended trial to the Optuna study."""
        fixed = optuna.trial.FixedTrial(issued.params)
        state, values, missing = self._outcome(issued, row)
        try:
            self._job.space(fixed)
            past = optuna.trial.create_trial(
                state=state,
                values=values,
                params=fixed.params,
                distributions=fixed.distributions,
                system_attrs=issued.sampler_state,
                user_attrs=None if issued.teaches else {UNDESCRIBED: True},
                constraints={MISSING: missing} if self._halved else None,
            )
        except (ValueError, KeyError):
            raise MedcoreError(
                f"{self._job.study}: trial {issued.trial_id} does not fit the search space; resume with the "
                "configuration that the study was started with, or start another study"
            ) from None
        self._study.add_trial(past)


def _left(starts: Iterable[Mapping[str, Any]], origins: Counter[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the starting points that no trial has had, by their origins.

    Their places in the list do not tell: another version may have other starting points.
    """
    for start in starts:
        if origins[start["origin"]] > 0:
            origins[start["origin"]] -= 1
        else:
            yield start


def _issued_from(row: TrialRow) -> IssuedTrial:
    """Return the trial of a row whose `params.json` is gone."""
    params, finalist = dict(row.params), row.repeats is not None or is_average(row.origin)
    return IssuedTrial(
        row.trial_id,
        row.number,
        row.seed or 0,
        str(row.origin),
        params,
        teaches=EXACT not in params and not finalist,
        repeats=row.repeats,
    )


def _sampler_state(trial: optuna.Trial) -> dict[str, Any]:
    """Return the scalar system attributes of a trial.

    The attributes include NSGA-II's generation and exclude the fixed parameters.
    """
    attributes = trial.study.get_trials(deepcopy=False)[trial.number].system_attrs
    return {key: value for key, value in attributes.items() if isinstance(value, (bool, int, float, str))}
