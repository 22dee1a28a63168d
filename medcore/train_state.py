"""Where a training stands after an epoch: log, weights, optimiser; written by rename, read without pickle."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.files import replacing


@dataclass(frozen=True)
class EpochRow:
    """One epoch: 0-based number, mean training loss, validation loss (None without `val`), last rate."""

    epoch: int
    train_loss: float
    val_loss: float | None
    lr: float


@dataclass
class TrainLog:
    """What happened.

    Attributes:
        epochs: the completed epochs. best_epoch: the one whose weights are kept, None without `val`.
        out_of_patience: ended early because the validation loss no longer fell.
        stopped: why training had to end (non-finite numbers), or None.
    """

    epochs: list[EpochRow] = field(default_factory=list)
    best_epoch: int | None = None
    out_of_patience: bool = False
    stopped: str | None = None


class TrainState:
    """Parameters, optimiser, log and best weights of a training that `state_path` can bring back.

    `identity` describes model, data and settings; a file with another identity is refused.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, identity: str) -> None:
        self.log = TrainLog()
        self._parameters = parameters
        self._optimizer = optimizer
        self._identity = identity
        self._best: list[Tensor] | None = None

    def end_epoch(self, row: EpochRow, patience: int) -> None:
        """Add the epoch to the log; keeps the weights if its validation loss is the best one so far."""
        self.log.epochs.append(row)
        if row.val_loss is None:
            return
        best = self.log.best_epoch
        best_loss = None if best is None else self.log.epochs[best].val_loss
        if best_loss is None or row.val_loss < best_loss:
            self.log.best_epoch = row.epoch
            self._best = [parameter.detach().clone() for parameter in self._parameters]
        elif best is not None and patience and row.epoch - best >= patience:
            self.log.out_of_patience = True

    def restore_best(self) -> None:
        """Put the best weights into the model; without validation the present ones stay."""
        if self._best is not None:
            self._put(self._best)

    def save(self, path: Path) -> None:
        """Write the state by rename, so that a crash leaves the former state or this one."""
        state = {
            "identity": self._identity,
            "parameters": [parameter.detach() for parameter in self._parameters],
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "log": dataclasses.asdict(self.log),
        }
        try:
            with replacing(path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:
            raise MedcoreError(f"{path}: cannot write the training state ({error})") from None

    def load(self, path: Path) -> None:
        """Take up the state in `path`; nothing happens if there is no such file.

        Raises:
            MedcoreError: the file is not a training state, or one of another training.
        """
        if not path.exists():
            return
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except (
            OSError,
            RuntimeError,
            EOFError,
            KeyError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MedcoreError(
                f"{path}: not a training state ({reason}); delete it to start from the beginning"
            ) from None
        if identity != self._identity:
            raise MedcoreError(
                f"{path}: belongs to a training with another model, other data, settings or seed; "
                "delete it or name another file"
            )
        self._put(state["parameters"])
        if state["best"] is not None:
            self._best = [
                best.to(parameter.device) for best, parameter in zip(state["best"], self._parameters, strict=True)
            ]
        self._optimizer.load_state_dict(state["optimizer"])
        log = dict(state["log"])
        self.log = TrainLog(**{**log, "epochs": [EpochRow(**row) for row in log["epochs"]]})

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
