"""The processes that train one model together: their parts of a batch, and the sums that they exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor

from medcore.errors import MedcoreError


class FailedElsewhere(MedcoreError):
    """Another process of the training failed; its own error gives the reason."""


#: Entries that are added up at once: one message instead of hundreds, without a second copy of all gradients.
_BUCKET = 2**23


@dataclass(frozen=True)
class World:
    """One process of those that train together.

    A world of one sends nothing. In a larger one torch.distributed's default group must exist, and all processes must
    call the same methods in the same order.

    Gradients are added up here and not by `DistributedDataParallel`, because that sends in the middle of a backward
    pass. A process whose share runs out of memory has to repeat the pass in smaller parts, which the others do not see.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: one that the group's backend can send from (the process's own GPU for NCCL).
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, count: int) -> tuple[slice, float]:
        """Return this process's part of a batch, and its weight in the batch's mean.

        Parts differ by at most one image. Where there are more processes than images, those left over take the first
        image with weight 0, so that every parameter with a gradient has one everywhere.

        Args:
            count: images of the batch.
        """
        start, end = (count * number // self.size for number in (self.rank, self.rank + 1))
        return (slice(start, end), (end - start) / count) if end > start else (slice(0, 1), 0.0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes.

        The sums are the same in all processes, bit by bit.

        Args:
            tensors: of one dtype, on `device`.
        """
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            torch.distributed.all_reduce(flat)
            totals = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, total in zip(bucket, totals, strict=True):
                tensor.copy_(total.view_as(tensor))

    def total(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.size == 1:
            return value
        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        self.add_up([number])
        return number.item()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return self.total(float(flag)) > 0

    def same(self, value: float) -> bool:
        """Return whether the number is the same in all processes."""
        return not self.any(self.total(value) != self.size * value)

    def together(self, action: Callable[[], None]) -> None:
        """Do `action`, and raise in all processes if it fails in one.

        Otherwise the others would wait for the failed one in vain.

        Args:
            action: what to do.

        Raises:
            MedcoreError: what `action` raised.
            FailedElsewhere: the action failed in another process only.
        """
        problem = None
        try:
            action()
        except MedcoreError as error:
            problem = error
        if self.any(problem is not None):
            raise problem or FailedElsewhere("another process of the training failed and says why")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in order, in runs of about `_BUCKET` entries."""
    bucket: list[Tensor] = []
    entries = 0
    for tensor in tensors:
        bucket.append(tensor)
        entries += tensor.numel()
        if entries >= _BUCKET:
            yield bucket
            bucket, entries = [], 0
    if bucket:
        yield bucket
