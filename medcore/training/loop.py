"""What recovery and training share: who trains, how the rate falls, what to return to after a blow-up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError

#: Share of the learning rate that a cosine schedule ends on (method §6).
COSINE_FLOOR = 0.01
SCHEDULES = ("constant", "cosine")


@contextmanager
def only_training(model: nn.Module, parts: Sequence[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """Let only the parameters of `parts` train; yields those with at least one entry.

    Parameters of width 0 (a block without heads or channels) are left out. On exit, also by an exception,
    every parameter's `requires_grad` is as before and no gradients remain.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    chosen = {id(parameter) for part in parts for parameter in part.parameters()}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield [parameter for parameter, _ in before if parameter.requires_grad and parameter.numel() > 0]
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
            parameter.grad = None


def rate_factor(step: int, total: int, schedule: str, warmup: int = 0) -> float:
    """Factor on the learning rate at 0-based `step` of `total`.

    Linear warm-up over the first `warmup` steps (the first step takes 1/warmup), then 1 ("constant"), or a
    half cosine that reaches `COSINE_FLOOR` at the last step ("cosine").
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    # Progress is 0 at the first step after warm-up and 1 at the last one.
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameter groups the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry is NaN or infinite; one transfer from the device for all tensors together."""
    if not tensors:
        return True
    return bool(torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all())


class LastGood:
    """A periodic copy of trained parameters that were finite and gave a finite loss.

    Copying every `every` steps costs little beside the steps; a failure loses at most `every` steps. `copies` are in
    the parameters' order and on their devices.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], every: int = 10) -> None:
        self._parameters = parameters
        self._every = every
        self.copies = [parameter.detach().clone() for parameter in parameters]

    def saw(self, step: int) -> None:
        """Note that the present parameters gave a finite loss at `step`; copies them every few steps."""
        if step % self._every == 0 and step > 0 and all_finite(self._parameters):
            for copy, parameter in zip(self.copies, self._parameters, strict=True):
                copy.copy_(parameter.detach())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the last copy back into the parameters, in place."""
        for copy, parameter in zip(self.copies, self._parameters, strict=True):
            parameter.copy_(copy)


def check_range(where: str, **limits: tuple[float, float, float]) -> None:
    """Raise `MedcoreError` naming the first setting whose (value, least, most) is out of order, or is NaN."""
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            bound = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
            raise MedcoreError(f"{where}: {name} is {value!r}; it must be {bound}")


def check_schedule(where: str, schedule: str) -> None:
    """Raise `MedcoreError` for an unknown learning-rate schedule."""
    if schedule not in SCHEDULES:
        raise MedcoreError(f"{where}: unknown schedule '{schedule}'; known are {', '.join(SCHEDULES)}")
