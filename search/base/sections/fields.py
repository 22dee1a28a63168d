"""What the sections of the configuration share: strict models, paths, shares and choices by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of the configuration. It refuses keys that it does not know, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def as_saved_before(values: Any, keys: frozenset[str], then: Mapping[str, Any]) -> Any:
    """Give settings that came later the meaning that they had when a study was saved.

    Studies are saved with all keys. So a section with all keys of an earlier version and none of the later ones is of
    that version.

    Args:
        values: The section as it was read.
        keys: All keys of the earlier version.
        then: What the later keys meant then.
    """
    if not isinstance(values, Mapping) or not keys <= values.keys() or then.keys() & values.keys():
        return values
    return {**then, **values}


#: Names, a registry of them, or a function that lists them.
Known = Iterable[str] | Callable[[], Iterable[str]]


def choice(known: Known) -> AfterValidator:
    """Return a check that a string is one of `known`.

    Args:
        known: The check reads them when it runs, so later entries count.
    """
    return AfterValidator(lambda name: _among(known, name))


def keys_among(known: Known) -> AfterValidator:
    """Return a check that all keys of a mapping are among `known`, as `choice` does for one string."""
    return AfterValidator(lambda values: {_among(known, name): value for name, value in values.items()})


def _among(known: Known, name: str) -> str:
    names = tuple(known() if callable(known) else known)
    if name not in names:
        raise ValueError(f"'{name}' is not one of {', '.join(names)}")
    return name


def _expand(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        path = Path(os.path.expandvars(value)).expanduser()
        os.fsencode(path)
    except RuntimeError:  # no such user, or a machine that knows no home folder
        raise ValueError(f"the home folder in '{value}' is unknown; write the path out") from None
    except ValueError:
        raise ValueError(f"'{value}' is no path") from None
    if "\0" in value:
        raise ValueError(f"'{value}' is no path")
    return path


def _expand_words(value: Any) -> Any:
    return os.path.expandvars(value) if isinstance(value, str) else value


def _no_variable_left(path: Path) -> Path:
    if "$" in str(path):
        raise ValueError(f"environment variable in '{path}' is not set")
    return path


#: A path. It may hold environment variables and `~`.
PathField = Annotated[Path, BeforeValidator(_expand), AfterValidator(_no_variable_left)]
#: Text that may hold environment variables.
Expanded = Annotated[str, BeforeValidator(_expand_words)]
NotNegative = Annotated[float, Field(ge=0)]
#: A share in [0, 1].
Share = Annotated[float, Field(ge=0, le=1)]
#: What is left of the dense model, in (0, 1].
Fraction = Annotated[float, Field(gt=0, le=1)]
