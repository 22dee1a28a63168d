"""Where a training stands after an epoch: log, weights, optimiser; written by rename, read without pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.files import UNREADABLE, cannot_write, first_line, replacing


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

    `identity` describes, by kind, all that the training starts from; a file with another identity is refused.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, identity: Mapping[str, str]
    ) -> None:
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
            "identity": dict(self._identity),
            "parameters": [parameter.detach() for parameter in self._parameters],
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "log": dataclasses.asdict(self.log),
        }
        try:
            # into an open file, because torch's own writer does not tell that the disk is full
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            raise cannot_write(path, error, "cannot write the training state") from None

    def load(self, path: Path) -> None:
        """Take up the state in `path`; nothing happens if there is no such file.

        Raises:
            MedcoreError: the file is not a training state, or one of another training; model and log are as before.
        """
        if not path.exists():
            return
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(f"holds a {type(state).__name__}")
            identity = dict(state["identity"])
        except UNREADABLE as error:
            raise _not_a_state(path, error) from None
        if differing := [kind for kind, value in self._identity.items() if identity.get(kind) != value]:
            raise MedcoreError(
                f"{path}: belongs to another training, which differs in {', '.join(differing)}; "
                "delete it to start from the beginning, or name another file"
            )
        try:
            log = _read_log(state["log"])
            current, best = state["parameters"], state["best"]
            if (best is None) != (log.best_epoch is None):
                raise ValueError("best weights and log do not agree")
            for weights in (current,) if best is None else (current, best):
                self._check(weights)
            self._optimizer.load_state_dict(state["optimizer"])
        except torch.OutOfMemoryError:  # says nothing about the file
            raise
        except UNREADABLE as error:
            raise _not_a_state(path, error) from None
        self.log = log
        self._put(current)
        if best is not None:
            self._best = [value.to(parameter.device) for value, parameter in zip(best, self._parameters, strict=True)]

    def _check(self, weights: Any) -> None:
        """Raise TypeError or ValueError unless they are tensors in the shapes of the parameters."""
        for value, parameter in zip(weights, self._parameters, strict=True):
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                raise TypeError("weights are no tensors of the model's shapes")

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _read_log(fields: Any) -> TrainLog:
    """Raises one of `UNREADABLE` if `fields` are not those that `save` writes."""
    epochs = [EpochRow(**row) for row in fields["epochs"]]
    log = TrainLog(**{**fields, "epochs": epochs})
    if [row.epoch for row in epochs] != list(range(len(epochs))) or log.best_epoch not in (None, *range(len(epochs))):
        raise ValueError("the log's epochs are out of order")
    return log


def _not_a_state(path: Path, error: BaseException) -> MedcoreError:
    return MedcoreError(f"{path}: not a training state ({first_line(error)}); delete it to start from the beginning")
