"""Checks before a search: a name, and a function that finds what is wrong.

`quick` lists those that take a moment, `slow` those that load models, read images, or wait for servers and nodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from medcore.data.reader import Listing
from medcore.data.readers import list_folder
from medcore.errors import MedcoreError, StorageError, brief
from search.base.config import Config
from search.nodes.problems import ManyProblems, listed

logger = logging.getLogger(__name__)

#: Called with the name of a job, and the numbers of its finished and of all pieces.
Report = Callable[[str, int, int], None]


@dataclass
class Subject:
    """What is checked. Later checks use what earlier ones have read.

    Attributes:
        config: The configuration, with absolute paths.
        ray_address: The cluster, as the user gave it; None for a Ray of this process's own.
        resume: Whether the study may have trials.
        thorough: Whether to check also what this search does not read.
        report: Called during a long check.
    """

    config: Config
    ray_address: str | None = None
    resume: bool = False
    thorough: bool = False
    report: Report | None = None

    @cached_property
    def listings(self) -> dict[Path, Listing]:
        """What each data folder holds, by names of files.

        Raises:
            DataError: A folder cannot be listed.
        """
        return {folder: list_folder(folder) for folder in self.config.data.folders}


@dataclass(frozen=True)
class Found:
    """What a check has found.

    Attributes:
        text: What is there, in one line.
        notes: What the user may want to know, one line each.
        problems: What must be mended, one line each.
        error: The error that ended the check, if one did.
    """

    text: str
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    error: MedcoreError | None = None

    @classmethod
    def of_error(cls, error: MedcoreError) -> Self:
        """Return the outcome of a check that an error ended."""
        return cls("", problems=(str(error),), error=error)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What is checked, in a word or two.
        look: Returns what it finds; a `MedcoreError` is a problem.
        after: Checks without which it would only find their problems again.
    """

    name: str
    look: Callable[[Any], Found]
    after: tuple[str, ...] = ()


def run_checks(
    checks: Sequence[Check], subject: Any, report: Report | None = None, known: Mapping[str, Found] | None = None
) -> dict[str, Found]:
    """Run checks one after the other, and return what each has found, by its name.

    A problem of one check does not end the others, except those that would only find it again.

    Args:
        checks: The checks.
        subject: What is checked.
        report: Called with "checks", and the numbers of finished and of all checks.
        known: What earlier checks have found. A check of the same name replaces it.
    """
    found = dict(known or {})
    for number, check in enumerate(checks):
        if report is not None:
            report("checks", number, len(checks))
        if unmet := [name for name in check.after if name in found and found[name].problems]:
            found.setdefault(check.name, Found(f"not checked because of {' and '.join(unmet)}"))
            continue
        try:
            found[check.name] = check.look(subject)
        except MedcoreError as error:
            found[check.name] = Found.of_error(error)
        except OSError as error:
            reason = f"{error.filename or 'the system'}: {brief(error.strerror or error, first=200)}; mend that"
            found[check.name] = Found.of_error(StorageError(reason))
    if report is not None:
        report("checks", len(checks), len(checks))
    return found


def problems_of(found: Iterable[Found]) -> list[str]:
    """Return all problems once, in their order."""
    return list(dict.fromkeys(problem for each in found for problem in each.problems))


def require(found: Iterable[Found]) -> None:
    """End if there is a problem.

    Raises:
        MedcoreError: There is one, or there are several (`ManyProblems`); the message has them all.
    """
    found = list(found)
    problems = problems_of(found)
    if len(problems) == 1 and (errors := [each.error for each in found if each.error is not None]):
        raise errors[0]
    if problems:
        raise ManyProblems(listed(problems))


def log_notes(found: Iterable[Found], known: Collection[str] = ()) -> tuple[str, ...]:
    """Log the notes that are not known yet, each once, and return all of them."""
    notes = dict.fromkeys(note for each in found for note in each.notes)
    for note in notes:
        if note not in known:
            logger.warning("%s", note)
    return tuple(notes)
