"""Finds connections to workers that a break in the network has cut at the far end only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any


class Nudges:
    """Sends each trial's worker a call that does nothing, now and then.

    A worker closes a connection on which it was not heard for 20 s. While the network is away the driver is not told,
    and waits for an answer that cannot come until Ray looks after it, five to seven minutes later. A call on such a
    connection breaks it at once: Tune then takes the worker for dead and begins the trial again, which goes on from its
    last saved state. Ray's own setting for this (`grpc_client_keepalive_time_ms`) cannot be shortened: a worker takes
    many pings during a long call for abuse and hangs up.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._pause, self._next = seconds, time.monotonic() + seconds

    def send(self, trials: Iterable[Any]) -> None:
        """Nudge the workers of Tune's `trials` if it is time; they answer when their trial's step has ended."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if actor is not None and not trial.is_finished():
                actor.__ray_ready__.remote()
