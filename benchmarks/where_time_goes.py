"""Claim: less than 5 % of a search's time is spent outside of scoring, pruning, recovery and evaluation.

Two views, as a trial cannot time what surrounds it. *Between trials*: from the rows of a finished study, the time that
its workers spent from the end of one trial to the start of the next. *Within a trial*: from Python's profiler around
trials of a configuration, run in this process one after another.

    python -m benchmarks.where_time_goes --study runs/polyps
    python -m benchmarks.where_time_goes --config search/configs/polyps.yaml --trials 4
"""

from __future__ import annotations

import argparse
import cProfile
import inspect
import pstats
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from medcore.checkpoint import save
from medcore.evaluate import evaluate, summarise
from medcore.masks import select
from medcore.prune import prune
from medcore.recovery import recover
from medcore.scores import mix
from medcore.scoring import build_table
from results.trials import all_rows, write_images, write_phases, write_row
from search.config import Config, load_config
from search.leverage import low_logits
from search.phases import save_state
from search.prepare import prepare
from search.study import adapted_model, load_split
from search.trial import run_trial
from search.warm import warm_starts

#: Work -> functions that do it.
WORK: dict[str, tuple[Callable[..., Any], ...]] = {
    "scoring": (build_table, mix),
    "pruning": (select, prune),
    "recovery": (recover,),
    "evaluation": (evaluate, summarise, low_logits),
    "saving": (save_state, save, write_images, write_phases, write_row),
}
#: What a search is for; the rest of a trial is overhead.
WANTED = ("scoring", "pruning", "recovery", "evaluation")


def between(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all workers: in trials, between trials, and at the end beside the last trials of others.

    A trial is taken to have run where the trial before it ended last. One pause of more than ten times the median trial
    is a search that stood still, and is left out.
    """
    spans = sorted((_seconds(row["started"]), _seconds(row["finished"])) for row in rows)
    limit = 10 * float(np.median([end - start for start, end in spans]))
    free: list[float] = []  # when each worker became free
    gaps = []
    for start, end in spans:
        waiting = [moment for moment in free if moment <= start]
        if waiting:
            gaps.append(start - max(waiting))
            free.remove(max(waiting))
        free.append(end)
    gaps = [gap for gap in gaps if gap < limit]
    return {
        "workers": len(free),
        "trials": sum(end - start for start, end in spans),
        "between": sum(gaps),
        "median_gap": float(np.median(gaps)) if gaps else 0.0,
        "at the end": sum(max(free) - moment for moment in free),
    }


def within(config: Config, trials: int) -> dict[str, float]:
    """Seconds of the first `trials` warm starts, by kind of work; `total` is everything."""
    size = adapted_model(config).arch.img_size
    images = load_split(config, config.data.search_split, size, config.data.search_per_dataset)
    shared = prepare(config, images)
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        for number, start in enumerate(warm_starts(shared)[:trials]):
            trial = {"trial_id": f"t{number:04d}", "number": number, "seed": number, "study_dir": folder, **start}
            profile.runcall(run_trial, trial, shared)
    return parts(pstats.Stats(profile))


def parts(stats: pstats.Stats) -> dict[str, float]:
    """Seconds of each kind of work, `rest` and `total`; work that is done within other work counts there."""
    table: dict[Any, Any] = vars(stats)["stats"]
    places = {_place(function): kind for kind, functions in WORK.items() for function in functions}
    found = dict.fromkeys(WORK, 0.0)
    for place, kind in places.items():
        callers = table.get(place, (0, 0, 0, 0, {}))[4]
        found[kind] += sum(times[3] for caller, times in callers.items() if caller not in places)
    total = table[_place(run_trial)][3]
    return found | {"rest": total - sum(found.values()), "total": total}


def _place(function: Callable[..., Any]) -> tuple[str, int, str]:
    """How the profiler names a function."""
    code = inspect.unwrap(function).__code__
    return code.co_filename, code.co_firstlineno, code.co_name


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _table(title: str, seconds: Mapping[str, float], whole: float) -> Table:
    table = Table("", "seconds", "share", title=title)
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{value / whole:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="folder of a finished study")
    parser.add_argument("--config", type=Path, help="configuration whose trials are profiled")
    parser.add_argument("--trials", type=int, default=4, help="number of profiled trials")
    arguments = parser.parse_args()
    console = Console()
    if arguments.study is not None:
        times = between(all_rows(arguments.study))
        shown = {name: times[name] for name in ("trials", "between", "at the end")}
        title = f"{arguments.study}: {times['workers']:.0f} workers, median gap {1e3 * times['median_gap']:.0f} ms"
        console.print(_table(title, shown, sum(shown.values())))
    if arguments.config is not None:
        seconds = within(load_config(arguments.config), arguments.trials)
        console.print(_table(f"{arguments.config}: within {arguments.trials} trials", seconds, seconds["total"]))
        rest = 1 - sum(seconds[kind] for kind in WANTED) / seconds["total"]
        console.print(f"outside of scoring, pruning, recovery and evaluation: {rest:.2%} of a trial")


if __name__ == "__main__":
    main()
