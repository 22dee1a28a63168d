"""Run one arm with one seed in this process until its processor seconds are used up; continue if it was interrupted."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Protocol

from ray.tune.search import Searcher

from benchmarks.search_arms.arms import Arm, Grid
from benchmarks.search_arms.charges import TrialClock, trial_seconds
from medcore.errors import ConfigError, MedcoreError, StorageError
from results.stats.columns import DENSE
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, finished_ids, write_row
from search.base.config import Config
from search.base.fidelities import shown_figures
from search.base.halving import ParetoHalving
from search.base.lock import only_driver
from search.base.phase_keys import FIDELITY
from search.base.samplers import SamplerSettings, derived_seed
from search.base.schedulers import HALVING, NONE
from search.commands.open_study import open_study
from search.driver.finalists import to_average
from search.driver.job import SearchJob
from search.driver.searcher import StudySearch
from search.study.inputs import Shared
from search.trials.files import remove_state
from search.trials.ledger import IssuedTrial, all_issued, read_issued, write_issued
from search.trials.sampling.reach import share_limits
from search.trials.sampling.space import domain_of, sample
from search.trials.sampling.warm import warm_starts
from search.trials.trial import trial_phases
from search.trials.trial_run import TrialRun

#: More trials than any arm runs. The seconds end an arm and begin its repeats, not the number of trials.
_ENDLESS = 10**9
#: Stages of a trial that an average has too.
_OF_AVERAGES = ("leverage", "averaging", "evaluation", "saving")
#: Number of failed trials, without any other, after which an arm stops.
_HOPELESS = 4


class Stage(Enum):
    """What the next trial of a search is."""

    SAMPLE = "sample"
    REPEAT = "repeat"
    AVERAGE = "average"


@dataclass(frozen=True)
class ArmStudy:
    """One arm with one seed.

    Attributes:
        arm: The arm.
        config: Its configuration.
        shared: What its trials share.
        seed: Seed of the sampler and of the trials.
        charged: Processor seconds of the statistics that the arm uses.
        seconds: Processor seconds that it may use, with those of the statistics.
    """

    arm: Arm
    config: Config
    shared: Shared
    seed: int
    charged: float
    seconds: float

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.config.folder

    @property
    def spent(self) -> float:
        """Processor seconds so far."""
        return self.charged + sum(trial_seconds(self.folder, trial.trial_id) for trial in all_issued(self.folder))

    @property
    def stage(self) -> Stage:
        """What the time has come for: sampled trials, then repeats, and in the last seconds averages.

        Repeats end when one more of the longest trials would leave too little time to average the runs.
        """
        if self.spent < (1 - self.config.search.finalists) * self.seconds:
            return Stage.SAMPLE
        if not self.config.averages or not self.config.search.finalists:
            return Stage.REPEAT
        rows = [row for row in all_rows(self.folder) if row.is_done]
        seconds = {row.trial_id: trial_seconds(self.folder, row.trial_id) for row in rows}
        # an average takes the stages that it has in common with its runs; stages are in seconds of a clock on the wall
        parts = {row.trial_id: _share(row, _OF_AVERAGES) * seconds[row.trial_id] for row in rows}
        due = [runs.first.trial_id for runs in to_average(all_issued(self.folder), rows)]
        averaging = sum(parts.get(name, 0.0) for name in due) + max(parts.values(), default=0.0)
        longest = max(seconds.values(), default=0.0)
        return Stage.REPEAT if self.spent + longest + averaging < self.seconds else Stage.AVERAGE

    @property
    def ended(self) -> bool:
        """Whether the seconds are used up, or all trials of a limited arm have a row."""
        limit = self.arm.limit
        return self.spent >= self.seconds or (limit is not None and len(finished_ids(self.folder)) >= limit)


def _share(row: TrialRow, stages: Collection[str]) -> float:
    """Return the share of a trial's time that some stages took."""
    whole = sum(row.timing.stages.values())
    return sum(row.timing.stages.get(name, 0.0) for name in stages) / whole if whole else 0.0


class Proposer(Protocol):
    """Issues trials, interrupted ones first."""

    def next(self) -> str:
        """Return the id of the next trial, whose parameters are on disk."""

    def ended(self, trial_id: str) -> None:
        """Learn from the row of a trial."""


class SearchProposer:
    """The product's own searcher."""

    def __init__(self, study: ArmStudy, stage: Stage) -> None:
        """Read the study; `stage` says what the next trials are, and in the last stage there is one."""
        config, shared = study.config, study.shared
        issued = all_issued(study.folder)
        finalists = sum(trial.is_finalist for trial in issued)
        job = SearchJob(
            study.folder,
            functools.partial(sample, domain=domain_of(shared)),
            config.search.objectives,
            # the last trial, and a finalist, if it is to be an average
            len(issued) + 1 if stage == Stage.AVERAGE else _ENDLESS,
            warm_starts=warm_starts(shared),
            finalists={Stage.SAMPLE: 0, Stage.REPEAT: _ENDLESS, Stage.AVERAGE: finalists + 1}[stage],
            averages=config.averages,
            sampler=SamplerSettings(
                config.search.sampler,
                study.seed,
                population=_population(config.search.trials),
                reach=share_limits(config.search, shared.start_spec, shared.settings.prices),
            ),
            scheduler=config.search.scheduling,
        )
        self._search = StudySearch(job)

    def next(self) -> str:
        """Issue a trial."""
        found = self._search.suggest("trial")
        if found == Searcher.FINISHED:
            raise StorageError(f"{self._search.problem}; free some space and start again")
        return str(found["trial_id"])

    def ended(self, trial_id: str) -> None:
        """Let the sampler learn from a row."""
        self._search.on_trial_complete("trial", {"row_written": True})


class GridProposer:
    """Budgets of one allocator on a grid."""

    def __init__(self, study: ArmStudy) -> None:
        """Take the grid between the ends of the arm's space."""
        assert study.arm.budget is not None
        self._study, self._grid = study, Grid.of(study.arm.budget, domain_of(study.shared))

    def next(self) -> str:
        """Issue a trial."""
        issued, ended = all_issued(self._study.folder), finished_ids(self._study.folder)
        if interrupted := [trial.trial_id for trial in issued if trial.trial_id not in ended]:
            return interrupted[0]
        number, name = len(issued), self._study.arm.name
        trial = IssuedTrial(
            trial_id=f"t{number:04d}",
            number=number,
            seed=derived_seed(self._study.seed, number),
            origin=name if name == DENSE else f"{name} {self._grid.share(number):.4g}",
            params=self._grid.params(number),
        )
        write_issued(self._study.folder, trial)
        return trial.trial_id

    def ended(self, trial_id: str) -> None:
        """Do nothing, because a grid does not learn."""


def run_study(study: ArmStudy, on_row: Callable[[], None]) -> None:
    """Run trials until the arm's seconds are used up.

    The trial that runs then stays unfinished. Its seconds count, and it continues if the arm gets more.

    Args:
        study: The arm and seed.
        on_row: Called after each trial that ended.

    Raises:
        MedcoreError: Another process runs this study, its configuration has changed, the disk is full, or the first
            trials all failed.
    """
    if study.config.search.scheduler not in (HALVING, NONE):
        raise ConfigError(f"search.scheduler: {study.config.search.scheduler} needs Ray; take {HALVING} or {NONE}")
    with only_driver(study.folder):
        open_study(study.config, resume=True)
        on_row()
        while not study.ended:
            stage = study.stage
            proposer = _proposer(study, stage)
            while not study.ended and study.stage == stage:
                run_trial(study, proposer)
                on_row()
                _check_alive(study.folder)
                if stage == Stage.AVERAGE:  # its proposer plans for one finalist
                    break


def run_trial(study: ArmStudy, proposer: Proposer) -> None:
    """Run one trial to its row, or to the end of the arm's seconds."""
    spent, since = study.spent, time.process_time()
    trial_id = proposer.next()
    clock = TrialClock(study.folder, trial_id, since)
    run = TrialRun(trial_phases, study.folder, trial_id, {"shared": study.shared}, node="benchmark")
    halving = _halving(study)
    try:
        while not _step(study, run, trial_id, halving):
            clock.save()
            if spent + clock.now >= study.seconds:
                return
        proposer.ended(trial_id)
    finally:
        run.close()
        clock.save()


def _population(trials: int) -> int:
    """Return the size of NSGA-II's generations in a search of so many trials, as `SamplerSettings` has it."""
    return min(50, max(8, trials // 4))


def _check_alive(folder: Path) -> None:
    """Stop an arm whose trials all fail, because failures take hardly any of its seconds."""
    rows = all_rows(folder)
    if len(rows) >= _HOPELESS and all(row.status == "failed" for row in rows):
        raise MedcoreError(f"{folder}: all {len(rows)} trials failed, the last because of: {rows[-1].reason}")


def _proposer(study: ArmStudy, stage: Stage) -> Proposer:
    return SearchProposer(study, stage) if study.arm.budget is None else GridProposer(study)


def _halving(study: ArmStudy) -> ParetoHalving | None:
    """Return the scheduler, with the decisions so far read from disk."""
    settings = study.config.search.scheduling
    if settings.name == NONE:
        return None
    return ParetoHalving(study.folder, settings.objectives, settings.quota)


def _step(study: ArmStudy, run: TrialRun, trial_id: str, halving: ParetoHalving | None) -> bool:
    """Perform one phase; return whether the trial has ended.

    A trial that the scheduler stops gets its row here, as Ray's events would write it.
    """
    started, result = datetime.now(UTC), run.step()
    if trouble := result.get("trouble"):
        raise StorageError(f"{trouble}; free some space and start again")
    if result["done"]:
        return True
    phase, figures = result["phase"], result["figures"]
    if halving is None or FIDELITY not in figures or halving.decide(trial_id, phase, figures):
        return False
    issued, shown = asdict(read_issued(study.folder, trial_id)), shown_figures(study.folder, trial_id)
    write_row(study.folder, TrialRow.stopped(issued, phase, started, shown))
    remove_state(study.folder, trial_id)
    return True
