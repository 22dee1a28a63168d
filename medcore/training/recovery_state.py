"""Where a recovery stands between two steps; written by rename, read without pickle.

A recovery that goes on from such a file ends in the same bits on a CPU as one never interrupted: its batches depend on
seed and step only, and all else that a step reads is in the file.
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
from torch import Tensor, nn

from medcore.devices import Parts
from medcore.files import UNREADABLE, cannot_write, first_line, replacing
from medcore.training.loop import LastGood

logger = logging.getLogger(__name__)

#: Least time between two saves, in durations of the last one: saving takes at most a twentieth of the time.
PAUSE = 20


@dataclass
class RecoveryLog:
    """What happened, one entry per completed step.

    Attributes:
        losses: total losses before each step. terms: the loss terms behind them.
        stopped: why recovery ended early (the model then holds the last good copy), or None.
        split: in how many parts batches had to be taken because memory ran out, or None.
    """

    losses: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    split: str | None = None

    @property
    def steps(self) -> int:
        """Completed steps."""
        return len(self.losses)


@dataclass(frozen=True)
class RecoveryState:
    """All that changes from step to step. `identity`: text that differs between recoveries with different inputs."""

    identity: str
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    good: LastGood
    log: RecoveryLog
    parts: Parts


class RecoveryFile:
    """Keeps a recovery's state in `path`: after every `every` steps (0: never), but never so often that it costs much.

    The pace decides only how much is done again after a crash, never what comes out.
    """

    def __init__(self, path: Path, every: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._every, self._clock = path, every, clock
        self._rest_until = 0.0

    def after_step(self, state: RecoveryState) -> None:
        """Save if it is time. Raises `StorageError` if that is not possible."""
        start = self._clock()
        if self._every == 0 or state.log.steps % self._every or start < self._rest_until:
            return
        content = {
            "identity": state.identity,
            "parameters": [parameter.detach() for parameter in state.parameters],
            "good": state.good.copies,
            "optimizer": state.optimizer.state_dict(),
            "log": dataclasses.asdict(state.log),
            "limit": state.parts.limit,
        }
        try:
            # into an open file, because torch's own writer does not tell that the disk is full
            with replacing(self._path) as temporary, temporary.open("wb") as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:
            raise cannot_write(self._path, error, "cannot write the recovery's state") from None
        end = self._clock()
        self._rest_until = end + PAUSE * (end - start)

    def load(self, state: RecoveryState) -> None:
        """Take up what was saved of this very recovery; otherwise nothing happens.

        A damaged file is named in a warning, and the recovery begins anew.
        """
        try:
            content: Any = torch.load(self._path, map_location="cpu", weights_only=True)
            if content["identity"] != state.identity:  # of an earlier phase
                return
            current, good = content["parameters"], content["good"]
            _check(current, state.parameters)
            _check(good, state.parameters)
            log, limit = RecoveryLog(**content["log"]), content["limit"]
            state.optimizer.load_state_dict(content["optimizer"])
        except FileNotFoundError:
            return
        except torch.OutOfMemoryError:  # says nothing about the file
            raise
        except UNREADABLE as error:
            logger.warning("%s: no state of a recovery (%s); the recovery begins anew", self._path, first_line(error))
            return
        state.good.copies = [value.to(own.device) for value, own in zip(good, state.parameters, strict=True)]
        with torch.no_grad():
            for parameter, value in zip(state.parameters, current, strict=True):
                parameter.copy_(value)
        state.log.losses, state.log.terms, state.log.split = log.losses, log.terms, log.split
        state.parts.limit = limit

    def remove(self) -> None:
        """After the phase: its end is on disk by other means."""
        self._path.unlink(missing_ok=True)


def _check(values: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Raise TypeError or ValueError unless `values` are tensors in the shapes of the parameters."""
    for value, parameter in zip(values, parameters, strict=True):
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            raise TypeError("weights are no tensors of the model's shapes")
