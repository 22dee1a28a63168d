"""Trials an hour with one and with several trials on the same machine or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from benchmarks.gpu.inputs import config_of, write_inputs
from medcore.errors import MedcoreError
from medcore.models.spec import Architecture
from results.store.trials import all_rows
from search.commands.search import search


@dataclass(frozen=True)
class Packing:
    """How fast trials ran.

    Attributes:
        at_once: Number of trials at the same time.
        trials: Number of trials.
        seconds: From the start of the first to the end of the last.
    """

    at_once: int
    trials: int
    seconds: float

    @property
    def per_hour(self) -> float:
        """Trials an hour."""
        return 3600 * self.trials / self.seconds


def packings(
    arch: Architecture, count: int, steps: int, at_once: Sequence[int], trials: int, folder: Path
) -> list[Packing]:
    """Run one search for each number of trials at once, on the same statistics.

    Args:
        arch: Architecture of the model, which gets random weights.
        count: Number of images in the study.
        steps: Recovery steps of a trial.
        at_once: Numbers of trials at the same time; each takes that share of a GPU.
        trials: Trials of each search.
        folder: For inputs and studies.

    Raises:
        MedcoreError: A trial failed.
    """
    write_inputs(folder, arch, count)
    found = []
    for number in at_once:
        config = config_of(
            folder,
            f"at_once_{number}",
            steps,
            trials=trials,
            sampler="random",
            scheduler="none",
            finalists=0.0,
            warm_starts={"dense": False, "knapsack": [], "uniform": []},
            concurrency=number,
            gpus_per_trial=1 / number if torch.cuda.is_available() else 0,
            memory_per_trial=None,
        )
        search(config)
        rows = all_rows(config.absolute().folder)
        if failed := [row for row in rows if not row.is_done]:
            raise MedcoreError(f"trial {failed[0].trial_id} {failed[0].status}: {failed[0].reason}")
        starts, ends = [_moment(row.timing.started) for row in rows], [_moment(row.timing.finished) for row in rows]
        found.append(Packing(number, len(rows), max(ends) - min(starts)))
    return found


def _moment(text: str | None) -> float:
    assert text is not None
    return datetime.fromisoformat(text).timestamp()
