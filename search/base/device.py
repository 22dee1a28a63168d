"""The device that work runs on, its threads, and the memory that work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def best_device() -> torch.device:
    """Return the GPU that this process may see, else the CPU.

    Ray narrows the visible GPUs to a trial's own.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def on_device(model: Model) -> Iterator[Model]:
    """Move a model to the best device for the length of a block.

    It returns to the CPU at the end of the block. A model that several callers share must not stay on the GPU, where a
    trial's own model needs the memory.
    """
    try:
        yield model.to(best_device())
    finally:
        model.cpu()


def pin_threads(count: int) -> None:
    """Let torch use `count` CPU threads.

    Trials on one machine then do not compete for cores.
    """
    torch.set_num_threads(count)


def release_memory() -> None:
    """Release the GPU memory that torch caches.

    Trials in other processes need it.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def forget_peaks() -> None:
    """Reset the peaks that `host_peak` and `gpu_peak` return."""
    with suppress(OSError):  # only Linux keeps a peak that can be reset
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def host_peak() -> int:
    """Return the peak of this process's own memory in bytes.

    Memory that processes share does not count. The peak counts since `forget_peaks`, or since the process began if the
    system cannot reset it. It is 0 on systems other than Linux.
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
    """Return the peak of torch's memory on this process's GPU in bytes.

    The peak counts since `forget_peaks`. It is 0 without a GPU.
    """
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
