"""What a tracker does: it follows a study elsewhere, while the rows on disk stay the truth.

A tracker is chosen by name with `tracking.kind`. To add one, write a class with the methods of `Tracker` and register
it in `TRACKERS`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from medcore.errors import brief
from medcore.registry import Registry
from results.store.held_out import Measurement

logger = logging.getLogger(__name__)

#: Below this path, attached files are contact sheets, each named like its trial.
SHEETS = "sheets/"
#: How a study's run can end.
End = Literal["FINISHED", "KILLED"]


@dataclass(frozen=True)
class Destination:
    """Where a study goes, and under which names.

    Attributes:
        study_dir: The study's folder.
        uri: Address of a server or a folder; None for the place where the study went before, else for the tracker's
            own place in the study's folder.
        experiment: Name that groups studies.
        run_name: Name of the study's run; None for the name of the study's folder.
    """

    study_dir: Path
    uri: str | None = None
    experiment: str = "medcore"
    run_name: str | None = None


class Tracker(Protocol):
    """Follow a study elsewhere. A tracker is created from a `Destination` only.

    A tracker may also have a property `page: str | None`. It is a line on where the study can be looked at, without a
    login, and None before that is known.

    Attributes:
        name: The tracker in messages.
    """

    name: ClassVar[str]

    @property
    def address(self) -> str:
        """Where the study goes, without a login."""

    def __init__(self, destination: Destination) -> None: ...

    def check(self) -> str | None:
        """Return why nothing can be written at the address, None if it can.

        The words follow the address.
        """

    def start(self, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Write down, in the study's folder only, how the study is described.

        Called once by each search.

        Args:
            config: The resolved configuration.
            tags: Git revision, machine and the like.
        """

    def sync(self, end_as: End | None = None) -> bool:
        """Send what was not sent before.

        Log trouble instead of raising it, because a search must go on.

        Args:
            end_as: Also send the study's files, and end its run with this status.

        Returns:
            Whether everything on disk has arrived.
        """

    def set_deadline(self) -> None:
        """Limit the time for sending from now on.

        The search has ended and waits for the tracker.
        """

    def finish(self, complete: bool = True) -> str | None:
        """Sync for the last time and end the study's run.

        Args:
            complete: Whether the study has all its trials.

        Returns:
            What to do about data that could not be sent, which is logged too; None if everything arrived.
        """

    def attach(self, files: Mapping[str, Path]) -> None:
        """Add files to the study's run, whose status stays.

        Args:
            files: Path below the run -> file to copy.

        Raises:
            MedcoreError: The files could not be added.
        """

    def add_held_out(self, measurement: Measurement, candidates: int) -> None:
        """Add held-out figures to the run of their trial.

        Adding them again changes nothing.

        Args:
            measurement: Figures of a pruned model.
            candidates: Number of pruned models measured on the same images.

        Raises:
            MedcoreError: The figures could not be added.
        """


TRACKERS: Registry[type[Tracker]] = Registry("tracker")


class Announcement:
    """Says once where a study can be looked at, as soon as its tracker knows.

    Args:
        tracker: The study's tracker.
        say: Takes the line.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._say = say
        self._told = False

    def tell(self) -> None:
        """Say it, unless that was done or it is not known yet.

        An error is logged, because a study does not depend on this line.
        """
        try:
            if not self._told and (line := getattr(self._tracker, "page", None)):
                self._told = True
                self._say(line)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of a plug-in, or of a closed standard output
            logger.debug("no line on where the study is in %s: %r", self._tracker.name, error)


class TrackingThread:
    """Context manager that syncs every few seconds in a thread.

    No trial then waits for a server. An error that `sync` raises is logged once and does not end the thread.

    Args:
        tracker: The study's tracker, already started.
        seconds: Between two syncs; more, up to a minute, while the server is away.
        announcement: Told after each sync.
    """

    def __init__(self, tracker: Tracker, seconds: float = 5.0, announcement: Announcement | None = None) -> None:
        self._tracker = tracker
        self._seconds = seconds
        self._announcement = announcement
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="medcore-tracking", daemon=True)

    def __enter__(self) -> TrackingThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._tracker.set_deadline()
        self._thread.join()

    def _run(self) -> None:
        wait, logged = 0.0, ""
        while not self._stop.wait(wait):
            try:
                reached = self._tracker.sync()
                if self._announcement is not None:
                    self._announcement.tell()
            except Exception as error:  # noqa: BLE001 - tracking never stops a search, even if a plug-in is wrong
                reached, reason = False, f"{type(error).__name__}: {brief(error)}"
                if reason != logged:
                    logger.warning("nothing is sent to %s: %s", self._tracker.name, reason)
                    logged = reason
            wait = self._seconds if reached else min(60.0, max(self._seconds, 2 * wait))
