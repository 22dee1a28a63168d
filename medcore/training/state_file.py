"""Files with the state of a training: written by rename, read without pickle, checked before they are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.devices import is_out_of_memory
from medcore.errors import CheckpointError, brief
from medcore.files import READ_ERRORS, cannot_write, replacing


class StateError(CheckpointError):
    """A file that is no state, or whose content has another form.

    The message is the reason alone, without the path.
    """


def write_state(path: Path, content: Mapping[str, Any], what: str) -> None:
    """Write tensors and plain values by rename.

    A crash leaves the former file or this one.

    Args:
        path: file to replace or create.
        content: what `torch.load(weights_only=True)` can read again.
        what: what failed, for the message.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        # into an open file, because torch's own writer does not report a full disk
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, error, what) from None


def read_state(path: Path, fields: Sequence[str]) -> dict[str, Any]:
    """Read what `write_state` wrote, onto the CPU.

    Args:
        path: the file.
        fields: names that the content must have.

    Returns:
        The content; the values are not checked yet.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: the file is damaged, or holds something else.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        if is_out_of_memory(error):  # says nothing about the file
            raise
        raise StateError(brief(error, first=120)) from None
    require(isinstance(content, dict), f"holds a {type(content).__name__}")
    missing = [name for name in fields if name not in content]
    require(not missing, f"has no {', '.join(missing)}")
    return dict(content)


def require(condition: bool, reason: str) -> None:
    """Raise an error unless a condition holds.

    Args:
        condition: the condition.
        reason: why a file is refused otherwise.

    Raises:
        StateError: the condition is false.
    """
    if not condition:
        raise StateError(reason)


def check_record(values: Any, kind: type, name: str) -> None:
    """Check that a mapping has the fields of a dataclass.

    Those with a default may be absent.

    Args:
        values: what was read.
        kind: the dataclass.
        name: what it is, for the message.

    Raises:
        StateError: it is no mapping, lacks a field, or has an unknown one.
    """
    require(isinstance(values, dict), f"{name} is a {type(values).__name__}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    needed = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    differing = sorted(map(str, (needed - values.keys()) | (values.keys() - known.keys())))
    require(not differing, f"{name} lacks or adds {', '.join(differing)}")


def check_weights(values: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Check that values are tensors in the shapes of the parameters.

    Raises:
        StateError: they are not.
    """
    fitting = isinstance(values, list) and len(values) == len(parameters)
    fitting = fitting and all(
        isinstance(value, Tensor) and value.shape == parameter.shape
        for value, parameter in zip(values, parameters, strict=True)
    )
    require(fitting, "weights are no tensors of the model's shapes")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Put a saved state into the optimizer.

    Raises:
        StateError: the state is of another form, or of other parameters; the optimizer is as before.
    """
    require(
        isinstance(state, dict)
        and isinstance(state.get("state"), dict)
        and isinstance(state.get("param_groups"), list),
        "no state of an optimizer",
    )
    before = optimizer.state_dict()
    try:
        optimizer.load_state_dict(state)
    # torch compares the groups of parameters, and trusts the form of what is in them
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        optimizer.load_state_dict(before)  # some errors come after the state was replaced
        if is_out_of_memory(error):  # says nothing about the state
            raise
        raise StateError(brief(error, first=120)) from None
