"""Claim: what the search adds to a trial is a tenth of a second, about what Tune adds with its own Optuna searcher.

Trials only sleep. Overhead is what the wall time has over the sleeping divided by the workers; starting Ray is not
counted, starting the workers is. A trial has one phase, or several with `--phases`, each a step of Tune.

    python -m benchmarks.trial_overhead --trials 200 --seconds 1 --workers 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from results.store.trials import write_row
from search.driver.job import Execution, SearchJob, Task
from search.driver.run import run_search
from search.nodes.session import Resources, connected
from search.trials.phase_result import PhaseResult

OBJECTIVES = (Objective("flops", "min"), Objective("boundary_f1", "max"))


def nap(trial: Mapping[str, Any], seconds: float, phases: int = 1) -> Iterator[PhaseResult]:
    """Sleep in so many phases and write a row."""
    for number in range(phases):
        time.sleep(seconds / phases)
        if number + 1 < phases:
            yield PhaseResult(f"phase {number}", {"loss": 1.0})
    row = TrialRow.done(trial, metrics={"flops": trial["params"]["x"], "boundary_f1": 1 - trial["params"]["x"]})
    write_row(Path(trial["study_dir"]), row)
    yield PhaseResult("row", row=row)


def ours(trials: int, seconds: float, execution: Execution, phases: int = 1) -> float:
    """Wall seconds of `run_search` with this execution."""
    with tempfile.TemporaryDirectory() as folder:
        job = SearchJob(Path(folder), lambda trial: {"x": trial.suggest_float("x", 0, 1)}, OBJECTIVES, trials)
        begin = time.perf_counter()
        outcome = run_search(job, Task(nap, {"seconds": seconds, "phases": phases}), execution)
        took = time.perf_counter() - begin
    if not outcome.complete:
        raise RuntimeError(outcome.message)
    return took


def tunes_own(trials: int, seconds: float, workers: int) -> float:
    """Wall seconds of `Tuner.fit` with `OptunaSearch` and a function trainable."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def train(config: dict[str, Any]) -> None:
        time.sleep(seconds)
        tune.report({"flops": config["x"], "boundary_f1": 1 - config["x"]})

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric=["flops", "boundary_f1"], mode=["min", "max"]),
                num_samples=trials,
                max_concurrent_trials=workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        begin = time.perf_counter()
        tuner.fit()
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--phases", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    asked = (arguments.trials, arguments.seconds, arguments.workers)
    ideal = arguments.trials * arguments.seconds / arguments.workers
    with connected(None, Resources()):
        measured = {
            "medcore search": ours(*asked[:2], Execution(concurrency=arguments.workers), arguments.phases),
            "Tune with OptunaSearch": tunes_own(*asked),
        }
    table = Table(title=f"{asked[0]} trials of {asked[1]:g} s at {asked[2]} workers, ideal {ideal:.0f} s")
    for title in ("", "wall (s)", "overhead", "per trial (ms)", "ratio to ours"):
        table.add_column(title, justify="right")
    extra = {name: took - ideal for name, took in measured.items()}
    for name, took in measured.items():
        ratio = extra[name] / extra["medcore search"]
        per_trial = 1e3 * extra[name] * asked[2] / asked[0]
        table.add_row(name, f"{took:.1f}", f"{extra[name] / ideal:.1%}", f"{per_trial:.0f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
