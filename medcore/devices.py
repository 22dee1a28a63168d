"""Where a model runs, in which precision, and batches that do not fit into memory."""

from __future__ import annotations

import functools
import itertools
import logging
import platform
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Microbatches:
    """The number of images that go through a model at once.

    The number is halved whenever memory runs out, down to 1, and never raised again.

    Attributes:
        limit: most images at once; None as long as every batch has fitted.
    """

    def __init__(self) -> None:
        """Start without a limit."""
        self.limit: int | None = None

    def run(self, count: int, work: Callable[[list[slice]], T]) -> T:
        """Do some work on a batch, in smaller microbatches as long as memory runs out.

        Args:
            count: number of images of the batch.
            work: takes the microbatches, which cover the batch in order; called again with smaller ones.

        Returns:
            What `work` returns.

        Raises:
            RuntimeError: what `work` raises, or memory runs out for a single image.
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
            # not in the handler: while the error is handled, its frames hold the memory that ran out
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def backward(self, count: int, loss: Callable[[slice], Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        """Compute the gradient of a batch's mean loss by microbatches.

        The gradient is left in the parameters.

        Args:
            count: number of images of the batch.
            loss: takes a microbatch and returns figures (K,), each a mean over its images; the first is the loss.
            optimizer: of the parameters; their old gradients are deleted.

        Returns:
            (K,), detached: the means over the batch.
        """

        def accumulate(pieces: list[slice]) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            means = []
            for piece in pieces:
                share = (piece.stop - piece.start) / count
                figures = share * loss(piece)
                figures[0].backward()
                means.append(figures.detach())
            return torch.stack(means).sum(dim=0)

        return self.run(count, accumulate)

    def note(self, count: int) -> str | None:
        """Return in words into how many microbatches a batch is cut.

        Args:
            count: number of images of the batch.

        Returns:
            The sentence; None if the batch fits as a whole.
        """
        if self.limit is None or self.limit >= count:
            return None
        # rows of trials hold this sentence, so it stays as it is
        return f"batch {count} in {len(slices(count, self.limit))} parts: out of memory"


def slices(count: int, size: int) -> list[slice]:
    """Cut `count` items into as few slices as possible.

    Args:
        count: number of items, at least 1.
        size: most items of a slice.

    Returns:
        Slices that cover the items in order. Their lengths differ by at most one.
    """
    pieces = -(-count // size)
    ends = [count * number // pieces for number in range(pieces + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed, on a GPU or on the CPU.

    On the CPU torch raises a plain RuntimeError, so its text decides.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "CUDA error: out of memory")
    )


def mixed_precision(device: torch.device, enabled: bool) -> torch.autocast:
    """Return bfloat16 autocast on the device (CPU or CUDA), or no autocast.

    bfloat16 has the range of float32, so the loss needs no scaling. A processor without instructions for it takes
    tens of times as long as in float32, so there float32 runs, and a warning says so once.
    """
    if enabled and not is_fast_in_bfloat16(device):
        _warn_of_float32()
        enabled = False
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@functools.cache
def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 saves time on a device; it is known to cost time on x86 processors without AVX-512."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if device.type != "cpu" or not is_x86 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _warn_of_float32() -> None:
    logger.warning(
        "this processor has no instructions for bfloat16, in which it would take tens of times as long; running in "
        "float32 in spite of autocast"
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter."""
    return next(model.parameters()).device
