"""Files that appear whole or not at all, and what reading a damaged one or writing to a full disk can raise."""

from __future__ import annotations

import errno
import os
import pickle
import re
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medcore.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What tells of the storage and not of the program that wanted to write.
_STORAGE = (*_FULL, errno.EROFS, errno.EIO, errno.ESTALE)

#: What `torch.load(weights_only=True)` raises on files that are damaged or something else entirely.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    struct.error,
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it is flushed to disk and takes `path`'s place at the block's end.

    No other process has the same temporary path, also where machines share the folder. If the block or the renaming
    fails, the temporary file is removed and `path` stays as it was.

    Raises: OSError, FileNotFoundError included if the block has written nothing.
    """
    # process numbers repeat between machines and, in containers, host names do too
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def first_line(error: BaseException) -> str:
    """The error's first line, at most 120 characters; its type where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def cannot_write(path: Path, error: BaseException, what: str = "cannot be written") -> StorageError:
    """The one line for a file that could not be written, with advice that fits the reason."""
    # torch ends a failed write with an error of its own, and the system's is behind it
    error = next((link for link in chain(error) if isinstance(link, OSError)), error)
    number = _number(error)
    reason = os.strerror(number) if number else first_line(error)
    advice = "free some space there" if number in _FULL else "choose a writable folder"
    return StorageError(f"{path}: {what} ({reason}); {advice}")


def is_storage_trouble(error: BaseException) -> bool:
    """Whether an error, or one behind it, says that files cannot be written, whatever the program does."""
    return any(isinstance(link, StorageError) or _number(link) in _STORAGE for link in chain(error))


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _number(error: BaseException) -> int | None:
    """The system's error number; libraries in Rust have it in their text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
