"""The state of a training after an epoch: log, weights, optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.errors import CheckpointError
from medcore.training.state_file import (
    StateError,
    check_record,
    check_weights,
    load_optimizer,
    read_state,
    require,
    write_state,
)

_FIELDS = ("identity", "parameters", "best", "optimizer", "log")


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a training.

    Attributes:
        epoch: number, from 0.
        train_loss: mean training loss.
        val_loss: validation loss; None without `val`.
        lr: last learning rate.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    lr: float


@dataclass
class TrainLog:
    """What happened in a training.

    Attributes:
        epochs: the completed epochs.
        best_epoch: the epoch whose weights are kept; None without `val`.
        out_of_patience: whether training ended early because the validation loss no longer fell.
        stopped: why training had to end (non-finite numbers), or None.
    """

    epochs: list[EpochRow] = field(default_factory=list)
    best_epoch: int | None = None
    out_of_patience: bool = False
    stopped: str | None = None


class TrainState:
    """Parameters, optimizer, log and best weights of a training.

    A file can hold and restore them.

    Args:
        parameters: what is trained.
        optimizer: optimizer of these parameters.
        identity: text by kind that describes all that the training starts from; a file with another one is refused.
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
        """Add an epoch to the log, and keep its weights if they are the best so far.

        Args:
            row: the epoch that ended.
            patience: epochs without a better validation loss after which training ends; 0 never ends it.
        """
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
        """Put the best weights into the model.

        Without validation the present weights stay.
        """
        if self._best is not None:
            self._put(self._best)

    def save(self, path: Path) -> None:
        """Write the state by rename.

        Args:
            path: file to replace or create.

        Raises:
            StorageError: the file cannot be written.
        """
        state = {
            "identity": dict(self._identity),
            "parameters": [parameter.detach() for parameter in self._parameters],
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "log": dataclasses.asdict(self.log),
        }
        write_state(path, state, "cannot write the training state")

    def load(self, path: Path) -> None:
        """Restore the state in `path`, or do nothing if there is no such file.

        Args:
            path: file that `save` wrote.

        Raises:
            CheckpointError: the file is not a training state, or one of another training; model and log are as before.
        """
        if not path.exists():
            return
        try:
            state = read_state(path, _FIELDS)
            identity = state["identity"]
            require(isinstance(identity, dict), f"identity is a {type(identity).__name__}")
        except StateError as error:
            raise _not_a_state(path, error) from None
        if differing := [kind for kind, value in self._identity.items() if identity.get(kind) != value]:
            raise CheckpointError(
                f"{path}: belongs to another training, which differs in {', '.join(differing)}; "
                "delete it to start from the beginning, or name another file"
            )
        current, best = state["parameters"], state["best"]
        try:
            log = _read_log(state["log"])
            require((best is None) == (log.best_epoch is None), "best weights and log do not agree")
            for weights in (current,) if best is None else (current, best):
                check_weights(weights, self._parameters)
            load_optimizer(self._optimizer, state["optimizer"])
        except StateError as error:
            raise _not_a_state(path, error) from None
        self.log = log
        self._put(current)
        if best is not None:
            self._best = [value.to(parameter.device) for value, parameter in zip(best, self._parameters, strict=True)]

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _read_log(fields: Any) -> TrainLog:
    """Read the log that `save` wrote.

    Raises:
        StateError: it has other fields, or epochs that are out of order.
    """
    check_record(fields, TrainLog, "the log")
    require(isinstance(fields.get("epochs"), list), "the log has no list of epochs")
    for row in fields["epochs"]:
        check_record(row, EpochRow, "an epoch of the log")
    epochs = [EpochRow(**row) for row in fields["epochs"]]
    log = TrainLog(**{**fields, "epochs": epochs})
    in_order = [row.epoch for row in epochs] == list(range(len(epochs)))
    require(in_order and log.best_epoch in (None, *range(len(epochs))), "the log's epochs are out of order")
    return log


def _not_a_state(path: Path, error: StateError) -> CheckpointError:
    return CheckpointError(f"{path}: not a training state ({error}); delete it to start from the beginning")
