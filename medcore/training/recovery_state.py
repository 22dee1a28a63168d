"""The state of a recovery between two steps.

On a CPU, a recovery that resumes from such a file ends in the same bits as one that was never interrupted, because its
batches depend on seed and step only and the file holds all else that a step reads.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcore.devices import Microbatches
from medcore.training.loop import LastGood, RunningMean
from medcore.training.state_file import (
    StateError,
    check_record,
    check_weights,
    load_optimizer,
    read_state,
    require,
    write_state,
)

logger = logging.getLogger(__name__)

#: Least time between two saves, in durations of the last one, so that saving takes at most a twentieth of the time.
PAUSE = 20
_FIELDS = ("identity", "parameters", "good", "mean", "optimizer", "log", "limit")


@dataclass
class RecoveryLog:
    """What happened in a recovery, one entry per completed step.

    Attributes:
        losses: total loss before each step.
        terms: the terms of that loss, by name.
        stopped: why recovery ended early (the model then holds the last good copy), or None.
        split: into how many microbatches batches were cut because memory ran out, in words, or None.
    """

    losses: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    split: str | None = None

    @property
    def steps(self) -> int:
        """Return the number of completed steps."""
        return len(self.losses)

    def notes(self, phase: str) -> dict[str, str]:
        """Return what a user should know of the recovery in `phase`.

        Each text has the name of its event.
        """
        found = {}
        if self.stopped is not None:
            found["stopped_early"] = f"{phase} ended early: {self.stopped}"
        if self.split is not None:
            found["split_batches"] = f"{phase}: {self.split}"
        return found


@dataclass(frozen=True)
class RecoveryState:
    """All that changes from step to step.

    Attributes:
        identity: text that differs between recoveries with different inputs.
        parameters: what is trained.
        optimizer: of these parameters.
        good: the last good copy of the parameters.
        mean: the mean of the parameters over the last steps.
        log: the steps so far.
        microbatches: how many images fit into memory at once.
    """

    identity: str
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    good: LastGood
    mean: RunningMean
    log: RecoveryLog = field(default_factory=RecoveryLog)
    microbatches: Microbatches = field(default_factory=Microbatches)


class RecoveryFile:
    """The file that keeps a recovery's state.

    How often it is written decides how many steps are repeated after a crash, never the outcome.

    Args:
        path: the file.
        every: steps between two saves; 0 never saves. Saves are rarer if they would take much of the time.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, path: Path, every: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._every = every
        self._clock = clock
        self._rest_until = 0.0

    def after_step(self, state: RecoveryState) -> None:
        """Save the state if a save is due.

        Args:
            state: where the recovery stands.

        Raises:
            StorageError: the file cannot be written.
        """
        start = self._clock()
        if self._every == 0 or state.log.steps % self._every or start < self._rest_until:
            return
        self.save(state)
        end = self._clock()
        self._rest_until = end + PAUSE * (end - start)

    def save(self, state: RecoveryState) -> None:
        """Save the state.

        Args:
            state: where the recovery stands.

        Raises:
            StorageError: the file cannot be written.
        """
        content = {
            "identity": state.identity,
            "parameters": [parameter.detach() for parameter in state.parameters],
            "good": state.good.copies,
            "mean": state.mean.values,
            "optimizer": state.optimizer.state_dict(),
            "log": dataclasses.asdict(state.log),
            "limit": state.microbatches.limit,
        }
        write_state(self._path, content, "cannot write the recovery's state")

    def load(self, state: RecoveryState) -> None:
        """Restore the state if the file holds one of this very recovery.

        Otherwise the state stays as it is. A damaged file is named in a warning, and the recovery starts from its
        beginning.

        Args:
            state: the state to fill in.
        """
        try:
            content = read_state(self._path, ("identity",))
            if content["identity"] != state.identity:  # of an earlier phase
                return
            missing = [name for name in _FIELDS if name not in content]
            require(not missing, f"has no {', '.join(missing)}")
            current, good, mean, limit = (content[name] for name in ("parameters", "good", "mean", "limit"))
            log = _read_log(content["log"])
            require(limit is None or isinstance(limit, int), f"limit is a {type(limit).__name__}")
            check_weights(current, state.parameters)
            check_weights(good, state.parameters)
            check_weights(mean, state.parameters if log.steps > min(state.mean.starts) else [])
            load_optimizer(state.optimizer, content["optimizer"])
        except FileNotFoundError:
            return
        except StateError as error:
            logger.warning("%s: no state of a recovery (%s); the recovery starts from its beginning", self._path, error)
            return
        state.good.copies = [value.to(own.device) for value, own in zip(good, state.parameters, strict=True)]
        state.mean.values = [value.to(own.device) for value, own in zip(mean, state.parameters, strict=bool(mean))]
        with torch.no_grad():
            for parameter, value in zip(state.parameters, current, strict=True):
                parameter.copy_(value)
        state.log.losses, state.log.terms, state.log.split = log.losses, log.terms, log.split
        state.microbatches.limit = limit

    def remove(self) -> None:
        """Delete the file once the end of the phase is saved elsewhere."""
        self._path.unlink(missing_ok=True)


def _read_log(fields: Any) -> RecoveryLog:
    """Read the log that `after_step` wrote.

    Raises:
        StateError: it has other fields, or not one entry per step.
    """
    check_record(fields, RecoveryLog, "the log")
    log = RecoveryLog(**fields)
    lists = isinstance(log.losses, list) and isinstance(log.terms, list)
    require(lists and len(log.losses) == len(log.terms), "the log has not one entry per step")
    return log
