"""Which device the work runs on, and with how many threads."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch


def best_device() -> torch.device:
    """The GPU that this process may see (Ray narrows it to a trial's own), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pin_threads(count: int) -> None:
    """Let torch use `count` CPU threads: trials side by side must not fight for cores."""
    torch.set_num_threads(count)


def release_memory() -> None:
    """Give back the GPU memory that torch keeps for later: trials in other processes need it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def forget_peaks() -> None:
    """Begin a new piece of work."""
    with suppress(OSError):  # Linux alone keeps a peak that can be forgotten
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def host_peak() -> int:
    """Bytes of this process's own memory, without what processes share; 0 where the system does not tell.

    Linux does. Since `forget_peaks`, or since the process began where that cannot be forgotten.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    if not {"VmHWM", "RssShmem"} <= fields.keys():  # as in some containers' kernels
        return 0
    peak, mapped = (int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssShmem"))
    return peak - mapped


def gpu_peak() -> int:
    """Bytes that torch's allocator held of this process's GPU since `forget_peaks`; 0 without one."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
