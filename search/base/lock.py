"""A file that one process holds at a time; the kernel drops the lock when the process ends, so none is ever stale."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medcore.errors import MedcoreError
from medcore.files import cannot_write


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


def is_driven(study: Path) -> bool:
    """Whether a search holds the study's lock."""
    try:
        handle = os.open(study / "search.base.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # storage without locks: nobody could have started a search there
        return False
    finally:
        os.close(handle)
    return False


#: Studies whose lock this process holds.
_held: set[Path] = set()


@contextmanager
def only_driver(study: Path) -> Iterator[None]:
    """Hold the study's lock; inside of it again is fine. Raises `MedcoreError` if another process holds it."""
    study = study.absolute()
    if study in _held:
        yield
        return
    path = study / "search.base.lock"
    with ExitStack() as stack:
        try:
            study.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            owner = path.read_text(errors="replace").strip() or "unknown"
            raise MedcoreError(
                f"{study}: another search is writing to this study (process {owner}); wait for it or stop it"
            ) from None
        except OSError as error:
            raise MedcoreError(f"{study}: cannot be made ({error.strerror}); choose another `output`") from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except OSError as error:
            raise cannot_write(path, error) from None
        _held.add(study)
        stack.callback(_held.discard, study)
        yield
