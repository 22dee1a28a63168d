"""Notice workers whose connection is broken."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from search.driver.ray_internals import send_nothing, worker_of


class KeepAlive:
    """Sends each trial's worker a call without effect, now and then.

    A worker closes a connection on which it hears nothing for 20 s. While the network is away, the driver does not
    learn of it, and waits for an answer that cannot come until Ray checks the worker, five to seven minutes later. A
    call on such a connection breaks it at once: Tune then treats the worker as dead and starts the trial again, which
    continues from its last saved state. Ray's own setting for this (`grpc_client_keepalive_time_ms`) cannot be
    shortened, because a worker treats many pings during a long call as abuse and hangs up.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        """Wait `seconds` before the first call, and between calls."""
        self._pause = seconds
        self._next = time.monotonic() + seconds

    def send(self, trials: Iterable[Any]) -> None:
        """Call the workers of Tune's `trials` if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause
        for trial in trials:
            if (worker := worker_of(trial)) is not None:
                send_nothing(worker)
