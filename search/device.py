"""Which device the work runs on, and with how many threads."""

from __future__ import annotations

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
