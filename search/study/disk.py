"""How much disk a search needs, and whether it is free, before anything is computed."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from medcore.errors import StorageError
from medcore.models.formats.precision import sizes
from medcore.models.spec import ModelSpec
from search.base.schedulers import NONE
from search.base.sections.search import KEEP_FRONT, SearchConfig

logger = logging.getLogger(__name__)

#: Weights, last good weights, running mean and the optimiser's two moments in the state of a recovery.
_STATE = 5
#: Rows, pictures, tracking and Ray's records of a trial, measured on the demo (0.4 MB), with some room.
_RECORDS_BYTES = 600_000


@dataclass(frozen=True)
class Demand:
    """What a search is about to write.

    Attributes:
        search: Its settings.
        start: The model that trials prune.
        missing: Trials that have not ended.
        at_once: Trials that run at the same time.
        teacher_images: Images whose answers by that model are still to be computed.
        averages: Whether finalists average weights.
    """

    search: SearchConfig
    start: ModelSpec
    missing: int
    at_once: int
    teacher_images: int
    averages: bool = False


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a search needs.

    Attributes:
        least: Without which it surely fails.
        parts: The most that it may take once trials run, by what takes it.
        before: What it takes before the first trial.
    """

    least: int
    parts: dict[str, int]
    before: int

    @property
    def most(self) -> int:
        """Return the most that the search may take at any time."""
        return max(self.before, sum(self.parts.values()))

    def listed(self) -> str:
        """Return the parts in words, the largest first."""
        parts = sorted(self.parts.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {size_text(size)}" for name, size in parts if size)


def disk_need(demand: Demand) -> DiskNeed:
    """Return how much disk a search needs.

    The most counts every trial as one that runs to its end and is as large as the model that it prunes. The least
    counts as many trials as surely end, with all groups removed.
    """
    search, arch = demand.search, demand.start.arch
    found = sizes(demand.start)
    smallest, largest = sum(found.unpruned.values()), found.model
    running = min(demand.at_once, demand.missing)
    removes = search.keep == KEEP_FRONT
    # the runs of repeated trials stay to the end if their weights are averaged
    stay = max(0, demand.missing - search.last_trials) if removes and not demand.averages else demand.missing
    # half precision: an embedding and the decoder's logits, four times as fine as the grid
    answer = 2 * (arch.embedding_chans * arch.grid**2 + (4 * arch.grid) ** 2)
    teacher = answer * demand.teacher_images
    # the state of a recovery is written next to the one before
    states = running * (1 + 2 * _STATE) * largest
    parts = {
        f"weights of {stay} trials": stay * largest,
        f"states of {running} running trials": states,
        "answers of the unpruned model": teacher,
        "records": demand.missing * _RECORDS_BYTES,
    }
    ending = 1 if removes else demand.missing
    if search.scheduler != NONE and not removes:
        ending = min(demand.missing, max(1, search.last_trials))
    before = 2 * teacher  # the shards are there until the whole file is
    # a resumed search has written some shards already, so the least counts them once
    least = teacher + ending * smallest if demand.missing else 0
    return DiskNeed(least, parts, before)


def require_space(folder: Path, demand: Demand) -> DiskNeed:
    """Check that a search fits on the disk. Quotas are not known here.

    Log a warning if it may not fit.

    Args:
        folder: A folder on the disk, which exists.
        demand: What will be written.

    Raises:
        StorageError: It cannot fit.
    """
    need, free = disk_need(demand), shutil.disk_usage(folder).free
    if free >= need.most:
        return need
    advice = "free some space or choose another `output`"
    if demand.search.keep != KEEP_FRONT:
        advice += f", or set search.keep: {KEEP_FRONT}, which removes weights that no rule can choose"
    limits = f"at least {size_text(need.least)} and at most {size_text(need.most)} ({need.listed()})"
    if free < need.least:
        raise StorageError(f"{folder}: {size_text(free)} are free, and this search needs {limits}; {advice}")
    logger.warning("%s: %s are free, and this search takes %s; %s", folder, size_text(free), limits, advice)
    return need


def size_text(size: int) -> str:
    """Return bytes as text in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
