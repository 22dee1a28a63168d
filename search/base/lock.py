"""The lock of a study, which one driver holds at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medcore.errors import MedcoreError, StorageError
from medcore.files import cannot_write, is_locked, locked, refuse_links, refuse_links_below

_NAME = "search.lock"
#: Studies whose lock this process holds.
_held: set[Path] = set()


def is_driven(study: Path) -> bool:
    """Return whether a search holds the study's lock."""
    return is_locked(study / _NAME)


@contextmanager
def only_driver(study: Path) -> Iterator[None]:
    """Hold the study's lock. A process that holds it already may enter again.

    Raises:
        MedcoreError: Another process holds the lock, or the folder cannot be written or holds links.
    """
    study = study.absolute()
    if study in _held:
        yield
        return
    path = study / _NAME
    with ExitStack() as stack:
        try:
            refuse_links_below(study, "ray")  # Tune makes a new folder in there
            refuse_links(study, "ray")
            study.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            owner = path.read_text(errors="replace").strip() or "unknown"
            raise MedcoreError(
                f"{study}: another search is writing to this study (process {owner}); wait for it or stop it"
            ) from None
        except OSError as error:
            raise StorageError(f"{study}: cannot be made ({error.strerror}); choose another `output`") from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except OSError as error:
            raise cannot_write(path, error) from None
        _held.add(study)
        stack.callback(_held.discard, study)
        yield
