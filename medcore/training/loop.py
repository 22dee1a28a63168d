"""What recovery and training share: which parameters train, how the rate falls, where a blow-up leads back to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from medcore.errors import ConfigError
from medcore.training.orders import RateSchedule

#: Share of the learning rate that a cosine schedule ends on (method §6).
COSINE_FLOOR = 0.01
#: Key of a parameter group's own factor on the learning rate.
RATE_FACTOR = "rate_factor"
SCHEDULES: tuple[str, ...] = get_args(RateSchedule)


@contextmanager
def only_training(model: nn.Module, parts: Sequence[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """Let only the parameters of `parts` train.

    On exit, also by an exception, every parameter's `requires_grad` is as before and no gradients remain.

    Args:
        model: the whole model.
        parts: modules of it.

    Yields:
        The parameters that train, without those of width 0 (a site without groups).
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
    """Return the factor on the learning rate at one step.

    Warm-up is linear over the first `warmup` steps (the first step takes 1/warmup). Then the factor is 1 ("constant"),
    or a half cosine that reaches `COSINE_FLOOR` at the last step ("cosine").

    Args:
        step: 0-based.
        total: number of steps.
        schedule: "constant" or "cosine".
        warmup: steps of warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    # progress is 0 at the first step after warm-up and 1 at the last one
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class AdamW(torch.optim.AdamW):
    """torch's AdamW as one fused operation, without torch's compiler.

    One operation takes a step for all parameters. An operation for each takes four times as long.

    torch wraps these methods for code that is compiled, and the wrappers import `torch._dynamo` at their first call.
    That costs each process a second and 70 MB, and a search has a process for each trial that runs. Here nothing is
    compiled, so the methods are used without their wrappers.
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, weight_decay: float = 0.01) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, fused=True)

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each parameter group the learning rate `rate`, times the factor that it has as `RATE_FACTOR`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_FACTOR, 1.0)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether no entry is NaN or infinite.

    All tensors together need one transfer from the device, or two if an entry is not finite or the sum of a tensor
    overflows.
    """
    if not tensors:
        return True
    # NaN and infinity survive in a sum, which takes a tenth of the time of looking at every entry
    if bool(torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in tensors]).isfinite().all()):
        return True
    return bool(torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all())


class LastGood:
    """A periodic copy of trained parameters that were finite and gave a finite loss.

    Copying every `every` steps costs little compared with the steps. A failure loses at most `every` steps.

    Attributes:
        copies: the parameters' values, in their order and on their devices.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], every: int = 10) -> None:
        self._parameters = parameters
        self._every = every
        self.copies = [parameter.detach().clone() for parameter in parameters]

    def saw(self, step: int) -> None:
        """Note that the present parameters gave a finite loss at `step`.

        Every few steps they are copied.
        """
        if step % self._every == 0 and step > 0 and all_finite(self._parameters):
            for copy, parameter in zip(self.copies, self._parameters, strict=True):
                copy.copy_(parameter.detach())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the last copy back into the parameters, in place."""
        for copy, parameter in zip(self.copies, self._parameters, strict=True):
            parameter.copy_(copy)


class RunningMean:
    """The mean of trained parameters over the last steps of a training, in float32 (13.2).

    Attributes:
        values: the mean so far, in the parameters' order and on their devices; empty before the first of these steps.
        starts: 0-based steps after which a mean begins; each ends the one before it.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], starts: Sequence[int]) -> None:
        self._parameters = parameters
        self.starts = tuple(starts)
        self.values: list[Tensor] = []

    @torch.no_grad()
    def saw(self, step: int) -> None:
        """Take in the parameters that `step` left. Steps before the first start count for nothing."""
        count = min((step - start + 1 for start in self.starts if start <= step), default=0)
        if count == 1:
            self.values = [parameter.detach().float().clone() for parameter in self._parameters]
        elif count > 1:
            for value, parameter in zip(self.values, self._parameters, strict=True):
                value.lerp_(parameter.detach().float(), 1 / count)

    @torch.no_grad()
    def put(self) -> None:
        """Put the mean into the parameters, in place. Without a step there is none, and the parameters stay."""
        for parameter, value in zip(self._parameters, self.values, strict=bool(self.values)):
            parameter.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the mean into the parameters for a while."""
        before = [parameter.detach().clone() for parameter in self._parameters]
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, before, strict=True):
                    parameter.copy_(value)


def check_range(where: str, **limits: tuple[float, float, float]) -> None:
    """Check that settings lie in their ranges.

    Args:
        where: what the settings are of, for the message.
        limits: setting -> (value, least, most).

    Raises:
        MedcoreError: a value is out of range or NaN; the message names the first such setting.
    """
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            bound = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
            raise ConfigError(f"{where}: {name} is {value!r}; it must be {bound}")


def check_schedule(where: str, schedule: str) -> None:
    """Check the name of a learning-rate schedule.

    Raises:
        MedcoreError: it is unknown.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"{where}: unknown schedule '{schedule}'; known are {', '.join(SCHEDULES)}")
