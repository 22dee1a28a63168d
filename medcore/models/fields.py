"""Checks of dataclasses that are read from files, before anything is built or allocated by their values."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from medcore.errors import CheckpointError, shown

T = TypeVar("T")

#: Largest whole number of a description. A file that names more cannot be of a real model, and must not be allocated.
LARGEST = 2**16
#: Largest side of a model's square in pixels. Every image is resized to it, whatever the weights' size is.
LARGEST_SIDE = 2**13
#: Least deviation of colours. Much smaller ones are 0 in float32, and the model's answers no numbers.
LEAST_STD = 1e-6
#: Longest text of a description, which messages and cards repeat.
LONGEST_TEXT = 100
#: Largest depth of an encoder, a decoder or a head, because every layer is built.
DEEPEST = 512


def check_fields(values: Any, where: str) -> None:
    """Check a dataclass's fields against their annotations.

    Args:
        values: the dataclass.
        where: place of the values, for messages.

    Raises:
        MedcoreError: a text is empty, a number is not positive and finite or too large, or a tuple holds anything but
            finite numbers or texts.
    """
    hints = typing.get_type_hints(type(values))
    for field in dataclasses.fields(values):
        value, kind = getattr(values, field.name), hints[field.name]
        if kind is str and not (isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and value.isprintable()):
            raise CheckpointError(
                f"{where}: {field.name} must be a line of text, at most {LONGEST_TEXT} letters, not {value!r:.40}"
            )
        most = DEEPEST if field.name.endswith("depth") else LARGEST
        if kind is int and not (is_number(value, int) and value >= 1):
            raise CheckpointError(f"{where}: {field.name} must be a positive whole number, not {value!r:.40}")
        if kind is float and not (is_number(value, int, float) and value > 0):
            raise CheckpointError(f"{where}: {field.name} must be a positive, finite number, not {value!r:.40}")
        if kind in (int, float) and value > most:
            raise CheckpointError(f"{where}: {field.name} must be at most {most}")
        if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] is str:
            if not (isinstance(value, tuple) and all(isinstance(item, str) for item in value)):
                raise CheckpointError(f"{where}: {field.name} must be a list of texts, not {value!r:.40}")
        elif typing.get_origin(kind) is tuple:
            whole = typing.get_args(kind)[0] is int
            kinds, words = ((int,), "whole numbers") if whole else ((int, float), "finite numbers")
            if not (isinstance(value, tuple) and all(is_number(item, *kinds) for item in value)):
                raise CheckpointError(f"{where}: {field.name} must be a list of {words}, not {value!r:.40}")
            if len(value) > LARGEST or any(abs(item) > LARGEST for item in value):
                raise CheckpointError(f"{where}: {field.name} is too long, or holds a number above {LARGEST}")


def check_image(side: int, mean: Sequence[float], std: Sequence[float], where: str) -> None:
    """Check the square of a model and the colours that become 0 and 1 in it.

    Args:
        side: of the square in pixels.
        mean: of each colour.
        std: deviation of each colour.
        where: place of the values, for messages.

    Raises:
        MedcoreError: the side is too large, there are not three colours, or a deviation is too small.
    """
    if len(mean) != 3:
        raise CheckpointError(f"{where}: pixel_mean must hold three numbers, not {mean}")
    if len(std) != 3 or min(std) < LEAST_STD:
        raise CheckpointError(f"{where}: pixel_std must hold three numbers from {LEAST_STD}, not {std}")
    if side > LARGEST_SIDE:
        raise CheckpointError(f"{where}: img_size must be at most {LARGEST_SIDE}, got {side}")


def is_number(value: Any, *kinds: type) -> bool:
    """Return whether `value` is finite and of one of these types.

    True and False are no numbers here.
    """
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    return not isinstance(value, float) or math.isfinite(value)


def construct(kind: type[T], values: Mapping[str, Any], where: str, lists: Collection[str] = ()) -> T:
    """Build a dataclass from plain values.

    Args:
        kind: the dataclass.
        values: values by field name.
        where: place of the values, for messages.
        lists: fields that are tuples in the dataclass and lists in files.

    Raises:
        MedcoreError: a field is unknown, missing or of the wrong type.
    """
    names = {field.name for field in dataclasses.fields(typing.cast(Any, kind))}
    if unknown := sorted(set(values) - names):
        listed = ", ".join(shown(name) for name in unknown[:3])
        raise CheckpointError(f"{where}: unknown field {listed}; known are {', '.join(sorted(names))}")
    plain = {key: tuple(value) if key in lists and isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**plain)
    except CheckpointError as error:  # of a field, found without knowing the file
        if str(error).startswith(where):
            raise
        raise CheckpointError(f"{where}: {str(error).removeprefix(where.rpartition(': ')[2] + ': ')}") from None
    except TypeError as error:
        raise CheckpointError(f"{where}: {str(error).removeprefix(kind.__name__ + '.__init__() ')}") from None
