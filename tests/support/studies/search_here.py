"""A search in this process: everything is the product's but Ray, and trials run one after the other."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from results.store.trials import finished_ids
from search.base.config import load_config
from search.commands import search as experiment
from search.driver.excluded_nodes import ExcludedNodes
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.outcome import Outcome, outcome_of
from search.driver.searcher import StudySearch
from search.driver.watcher import SearchState, Watcher
from search.nodes.session import Resources
from search.trials.trial_run import TrialRun


def search_here(config: Path) -> Outcome:
    """Run the search of a configuration to its end."""
    nothing = {"connected": lambda *_: nullcontext(), "placed": lambda *_: Resources()}
    nothing |= {"save_heatmaps": lambda *_: None, "save_curves": lambda *_: None}  # pictures take longest
    with (
        mock.patch.multiple(experiment, **nothing, run_search=_run_trials),
        mock.patch.object(experiment.preflight, "for_late_nodes", lambda *_: None),
        mock.patch.object(experiment.slow, "check_nodes", lambda *_: 0),
    ):
        return experiment.search(load_config(config))


def _run_trials(job: SearchJob, task: Task, execution: Execution, hooks: Hooks, **_: Any) -> Outcome:
    searcher = StudySearch(job)
    Watcher(SearchState(job.study, 0, ExcludedNodes(None), threading.Event(), hooks), searcher)
    while (count := len(finished_ids(job.study))) < job.trials:
        trial = searcher.suggest(f"tune{count}")
        run = TrialRun(task.work, job.study, trial["trial_id"], task.shared, "here")
        while not (result := dict(run.step()))["done"]:
            pass
        searcher.on_trial_complete(f"tune{count}", result)
    return outcome_of(job.study, job.trials, False, problem=None, excluded=(), command="")
