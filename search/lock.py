"""A file that one process holds at a time; the kernel drops the lock when the process ends, so none is ever stale."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medcore.errors import MedcoreError


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock on `path`, which is made if it is absent. Yields its file descriptor.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        MedcoreError: the file cannot be written, or its storage has no locks.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot be written ({error.strerror}); choose another `output`") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            raise MedcoreError(
                f"{path}: cannot be locked ({error.strerror}); choose an `output` on storage with file locks (flock)"
            ) from None
        yield handle
    finally:
        os.close(handle)
