"""The processes that train one model together: which part of a batch is whose, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor

from medcore.errors import MedcoreError


class FailedElsewhere(MedcoreError):
    """Another process of the training has failed, and knows the reason."""


#: Entries that are added up at once: one message instead of hundreds, without a second copy of all gradients.
_BUCKET = 2**23


@dataclass(frozen=True)
class World:
    """One process of `size`, numbered by `rank` from 0. By itself a world of one, in which nothing is sent.

    In a larger one torch.distributed's default group must exist, and all processes must call the same methods in the
    same order; `device` is one that its backend can send from (the process's own GPU for NCCL).

    Gradients are added up here and not by `DistributedDataParallel`, because that sends in the middle of a backward
    pass: a process whose share runs out of memory takes it again in parts, without the others knowing.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, count: int) -> tuple[slice, float]:
        """This process's part of a batch of `count` images, and its weight in the batch's mean.

        Parts differ by at most one image. Where there are more processes than images, those left over take the first
        image with weight 0: so every parameter with a gradient has one everywhere.
        """
        start, end = (count * number // self.size for number in (self.rank, self.rank + 1))
        return (slice(start, end), (end - start) / count) if end > start else (slice(0, 1), 0.0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (of one dtype, on `device`) by its sum over all processes, bit by bit the same in all."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            torch.distributed.all_reduce(flat)
            totals = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, total in zip(bucket, totals, strict=True):
                tensor.copy_(total.view_as(tensor))

    def total(self, value: float) -> float:
        """Sum of a number over all processes."""
        if self.size == 1:
            return value
        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        self.add_up([number])
        return number.item()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.total(float(flag)) > 0

    def same(self, value: float) -> bool:
        """Whether the number is the same in all processes."""
        return not self.any(self.total(value) != self.size * value)

    def together(self, action: Callable[[], None]) -> None:
        """Do `action`; if it raises `MedcoreError` in one process, all raise: none waits for it in vain.

        Those where it went well raise `FailedElsewhere`.
        """
        problem = None
        try:
            action()
        except MedcoreError as error:
            problem = error
        if self.any(problem is not None):
            raise problem or FailedElsewhere("another process of the training failed and says why")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in runs of about `_BUCKET` entries."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
