"""Atomic files, file locks, and the errors of damaged files and full disks."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import re
import secrets
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medcore.errors import StorageError, brief

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Errors of the storage, which say nothing about the program that writes.
_STORAGE = (*_FULL, errno.EROFS, errno.EIO, errno.ESTALE)

#: What `torch.load(weights_only=True)` raises for a file that is damaged or something else entirely. Catch these around
#: that call only, because around other code they would hide mistakes of ours.
READ_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end of the block.

    The file is flushed to disk before it is renamed. No other process has the same temporary path, even if several
    machines share the folder. If the block or the renaming fails, the temporary file is removed and `path` stays as it
    was. A file that only its owner may read gets the permissions of any new file in its folder.

    Args:
        path: file to replace or create; its folder must exist.

    Yields:
        A path in the same folder, to write to.

    Raises:
        OSError: the file cannot be flushed or renamed; FileNotFoundError if the block has written nothing.
    """
    # process numbers repeat between machines and, in containers, host names do too
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            _open_to_others(file.fileno(), temporary)
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def refuse_links(folder: Path, *places: str) -> None:
    """Check that writing to places below a folder stays below it.

    A folder that comes from someone else may hold links to the user's own files.

    Args:
        folder: The folder, which may be a link itself.
        *places: Paths below it that are to be written.

    Raises:
        StorageError: Such a path, or a folder on the way to it, is a link.
    """
    for place in places:
        path = folder
        for part in Path(place).parts:
            path = path / part
            _refuse_link(path)


def refuse_links_below(folder: Path, *unread: str) -> None:
    """Check that nothing below a folder is a link.

    Args:
        folder: The folder, which may be a link itself or absent.
        *unread: Names in the folder that are not looked into.

    Raises:
        StorageError: There is a link.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _refuse_link(Path(place) / name)
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in unread]


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StorageError(
            f"{path}: is a link, and nothing is written through links out of this folder; put the file or folder "
            "itself there, or delete the link"
        )


def _open_to_others(file: int, path: Path) -> None:
    """Give a private file the permissions that a new file gets there.

    safetensors makes files that only their owner may read. The permissions of a new file follow the user's umask and
    the folder's own rules. Reading the umask would change it for other threads, so a new file shows them.

    Args:
        file: descriptor of the private file.
        path: its path.
    """
    if os.fstat(file).st_mode & 0o077:
        return
    example = path.with_name(f"{path.name}.mode")
    try:
        handle = os.open(example, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            os.fchmod(file, stat.S_IMODE(os.fstat(handle).st_mode))
        finally:
            os.close(handle)
    finally:
        with suppress(OSError):
            example.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock on a file, which is created if it is absent.

    The kernel drops the lock when the process ends, so none is ever stale. The file may hold text. The package
    `filelock` is not used, because it polls instead of waiting in the kernel and in older versions empties the file.

    Args:
        path: The file.
        wait: Wait for another process that holds the lock.

    Yields:
        The file's descriptor.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
        StorageError: The file cannot be written or is a link, or its storage has no locks.
    """
    _refuse_link(path)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be locked ({error.strerror}); choose a folder on storage with file locks (flock)"
            ) from None
        yield handle
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock on a file.

    The answer is False if there is no such file, or if its storage has no locks.
    """
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # storage without locks, where no process can hold one
        return False
    finally:
        os.close(handle)
    return False


def cannot_write(path: Path, error: BaseException, what: str = "cannot be written") -> StorageError:
    """Build the error for a file that cannot be written.

    Its message gives advice that fits the reason.

    Args:
        path: the file.
        error: what the attempt raised.
        what: what failed; the message has it after the path.

    Returns:
        The error to raise.
    """
    # torch ends a failed write with an error of its own, which has the system's as its cause
    error = next((link for link in chain(error) if isinstance(link, OSError)), error)
    number = _number(error)
    reason = os.strerror(number) if number else brief(error, first=120)
    advice = "free some space there" if number in _FULL else "choose a writable folder"
    return StorageError(f"{path}: {what} ({reason}); {advice}")


def is_storage_trouble(error: BaseException) -> bool:
    """Tell whether an error, or a cause of it, says that the storage takes no files."""
    return any(isinstance(link, StorageError) or _number(link) in _STORAGE for link in chain(error))


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its cause, the cause of that, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _number(error: BaseException) -> int | None:
    """Return the system's error number, None if the error has none.

    Libraries in Rust have it in their text only.
    """
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None


def not_a_file(path: Path) -> str:
    """Return what a path is if it is no regular file, or else an empty text.

    Links are followed.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat is the same call
    except OSError as error:
        return "a broken link" if path.is_symlink() else error.strerror or str(error)
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else f"{kinds.get(stat.S_IFMT(mode), 'a device')}, no file"
