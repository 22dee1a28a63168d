"""A cluster's head that is gone takes the search with it: Ray ends this process after a minute, in its own words."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

logger = logging.getLogger(__name__)


@contextmanager
def watching_head(command: str, seconds: float = 10.0) -> Iterator[None]:
    """Ask the head every few seconds whether it is there, and say how to go on while this process still can.

    `command`: what the user types then.
    """
    address = ray.get_runtime_context().gcs_address
    ended = threading.Event()

    def watch() -> None:
        silent = 0
        while not ended.wait(seconds):
            silent = 0 if answers(address) else silent + 1
            if silent == 2:
                logger.warning(
                    "the head of the Ray cluster (%s) does not answer; without it Ray ends this search within a "
                    "minute. Nothing that is finished is lost; go on with: %s",
                    *(address, command),
                )

    thread = threading.Thread(target=watch, name="medcore-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def answers(address: str, patience: float = 5.0) -> bool:
    """Whether something listens at HOST:PORT; not where that is no address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=patience):
            return True
    except (OSError, OverflowError, UnicodeError):  # the latter: of a port above 65535, of a name that none can have
        return False
