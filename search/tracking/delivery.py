"""The state of sending: what arrived and what failed, until when to send, who sends, when to upload files again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medcore.errors import MedcoreError, TrackingError
from medcore.files import locked

logger = logging.getLogger(__name__)

#: Largest share of the time for uploads of pictures and tables: those of a thousand trials take eight seconds.
_UPLOADING = 0.005


class OutOfTimeError(Exception):
    """The deadline has passed."""


class Deadline:
    """The time at which sending must stop; there is none until `set` is called.

    Args:
        seconds: Allowed from the first call of `set`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = math.inf

    def set(self) -> None:
        """Start the clock. A later call does not extend the time."""
        self._end = min(self._end, time.monotonic() + self.seconds)

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._end

    def check(self) -> None:
        """Raise `OutOfTimeError` if the time is over."""
        if self.passed:
            raise OutOfTimeError


@contextmanager
def exclusive(study_dir: Path, deadline: Deadline) -> Iterator[None]:
    """Hold a study's lock for sending.

    Another process may send the same study, as `medcore sync` during a search.

    Raises:
        OutOfTimeError: The other process holds the lock until the deadline.
        MedcoreError: The lock's file cannot be written.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(study_dir / "tracking.lock", wait=False))
            except BlockingIOError:
                deadline.check()
                time.sleep(0.5)
            else:
                break
        yield


class Delivery:
    """What has arrived at a tracker, what failed, and what was logged about it.

    Args:
        tracker: Name of the tracker in messages.

    Attributes:
        arrived: Trials of which the server confirmed everything.
        corrupt: Trials that are not sent because their own files are corrupt.
        files_refused: The server refused a file in this round, so it gets no other one.
        uncertain: A request failed, and the server may still have carried it out.
    """

    def __init__(self, tracker: str) -> None:
        self._tracker = tracker
        self.arrived: set[str] = set()
        self.corrupt: set[str] = set()
        self.files_refused = False
        self.uncertain = False
        self._logged: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether nothing was left out in the last round."""
        return not self.corrupt and not self.files_refused

    def warn_once(self, topic: str, message: str, *values: object) -> None:
        """Log a warning, unless there was one about `topic` since it was last settled."""
        if topic not in self._logged:
            self._logged.add(topic)
            logger.warning(message, *values)

    def settle(self, topic: str) -> None:
        """Forget that there was a warning about `topic`, because its reason is gone."""
        self._logged.discard(topic)

    @contextmanager
    def skipping(self, trial_id: str) -> Iterator[None]:
        """Leave out a trial if its own files are corrupt.

        The other trials are then sent.
        """
        try:
            yield
        except TrackingError:
            raise
        except MedcoreError as error:
            self.corrupt.add(trial_id)
            self.warn_once(trial_id, "trial %s is not sent to %s: %s", trial_id, self._tracker, error)
        else:
            self.corrupt.discard(trial_id)
            self.settle(trial_id)


class UploadSchedule:
    """Decides when pictures and tables are uploaded again.

    Args:
        seconds: Least time between two uploads; the time is longer if an upload takes long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._trials = 0
        self._next = 0.0

    def is_due(self, trials: int) -> bool:
        """Return whether another upload is due.

        There must be more trials than in the last one, and enough time must have passed.
        """
        return trials > self._trials and time.monotonic() > self._next

    def uploaded(self, trials: int, begun: float) -> None:
        """Note an upload of this many trials that ends now.

        It began at `begun` (of `time.monotonic`).
        """
        now = time.monotonic()
        self._trials = trials
        self._next = now + max(self._seconds, (now - begun) / _UPLOADING)
