"""Where a model runs, in which precision, and batches that do not fit into memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


T = TypeVar("T")


class Parts:
    """How many images go through a model at once: halved whenever memory runs out, down to 1, and never raised again.

    `limit`: most images at once; None as long as every batch has fitted.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def run(self, count: int, work: Callable[[list[slice]], T]) -> T:
        """`work` on the parts of a batch of `count` images; anew on smaller parts as long as memory runs out.

        Raises: what `work` raises; running out of memory too, if single images do not fit.
        """
        while True:
            size = min(count, self.limit or count)
            try:
                return work(slices(count, size))
            except (RuntimeError, MemoryError) as error:
                if size <= 1 or not is_out_of_memory(error):
                    raise
                self.limit = (size + 1) // 2
                logger.warning("%s", self.note(count))
            # only here: while the error is handled, its frames hold the memory that ran out
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def backward(self, count: int, loss: Callable[[slice], Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        """Leave the gradient of a batch's mean loss in the parameters, computed part by part.

        Args:
            loss: figures (K,) of one part, each a mean over its images; the first is the loss to differentiate.

        Returns: (K,), detached: the means over the batch.
        """

        def accumulate(parts: list[slice]) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            means = []
            for part in parts:
                share = (part.stop - part.start) / count
                figures = share * loss(part)
                figures[0].backward()
                means.append(figures.detach())
            return torch.stack(means).sum(dim=0)

        return self.run(count, accumulate)

    def note(self, count: int) -> str | None:
        """What became of a batch of `count` images; None if it goes through in one piece."""
        if self.limit is None or self.limit >= count:
            return None
        return f"batch {count} in {len(slices(count, self.limit))} parts: out of memory"


def slices(count: int, size: int) -> list[slice]:
    """`count` items in as few parts of at most `size` as possible, of lengths that differ by at most one."""
    parts = -(-count // size)
    ends = [count * number // parts for number in range(parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU (there torch raises a plain RuntimeError)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "CUDA error: out of memory")
    )


def mixed_precision(device: torch.device, enabled: bool) -> torch.autocast:
    """bfloat16 autocast on the device (CPU or CUDA); nothing if not `enabled`. Needs no loss scaling."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter."""
    return next(model.parameters()).device
