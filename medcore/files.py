"""Files that appear whole or not at all, and what reading a damaged one can raise."""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
