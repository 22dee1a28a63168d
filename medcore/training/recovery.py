"""A short training of a pruned encoder against the boundary and the unpruned teacher (method §6)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.devices import Parts, device_of, mixed_precision
from medcore.errors import MedcoreError
from medcore.losses import recovery_loss
from medcore.models.sam import MedSam
from medcore.training.loop import (
    LastGood,
    all_finite,
    check_range,
    check_schedule,
    only_training,
    rate_factor,
    set_rate,
)
from medcore.training.recovery_state import RecoveryFile, RecoveryLog, RecoveryState
from medcore.training.teacher import Teacher, compute_teacher

__all__ = ["RecoveryFile", "RecoveryLog", "RecoverySettings", "Teacher", "compute_teacher", "recover"]

#: Names of the loss's terms, in the order of their weights.
TERMS = ("segmentation", "boundary", "embedding", "boundary_logits", "frequency")
#: Called after every step with the 0-based step, the total loss and its unweighted terms.
OnStep = Callable[[int, float, dict[str, float]], None]


@dataclass(frozen=True)
class RecoverySettings:
    """Defaults are the reference's. `lambdas` weigh boundary BCE, embedding, boundary logits and spectrum.

    `schedule` is "constant" or "cosine" (to 1 %), after `warmup` steps of linear rise. `autocast` runs the
    model in bfloat16; losses and weights stay in float32.
    """

    steps: int = 100
    lr: float = 1e-5
    batch_size: int = 4
    lambdas: tuple[float, float, float, float] = (1.0, 0.5, 2.0, 0.5)
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    autocast: bool = False

    def __post_init__(self) -> None:
        check_range(
            "recovery",
            steps=(self.steps, 0, math.inf),
            lr=(self.lr, 0, math.inf),
            batch_size=(self.batch_size, 1, math.inf),
            weight_decay=(self.weight_decay, 0, math.inf),
            warmup=(self.warmup, 0, math.inf),
        )
        check_schedule("recovery", self.schedule)
        if len(self.lambdas) != 4 or not all(0 <= value < math.inf for value in self.lambdas):
            raise MedcoreError(f"recovery: lambdas must be four numbers of at least 0, got {self.lambdas}")


def draw_batches(complexity: npt.NDArray[np.float64], steps: int, batch_size: int, seed: int) -> npt.NDArray[np.intp]:
    """Image indices (steps, batch_size), drawn with replacement in proportion to `complexity`.

    Uniform if all complexities are 0. A longer draw with the same seed begins with the shorter one.
    """
    total = complexity.sum()
    shares = complexity / total if total > 0 else np.full(len(complexity), 1 / len(complexity))
    indices = np.random.default_rng(seed).choice(len(complexity), size=(steps, batch_size), p=shares)
    return np.asarray(indices, np.intp)


def recover(
    model: MedSam,
    images: ImageSet,
    teacher: Teacher,
    settings: RecoverySettings,
    seed: int,
    on_step: OnStep | None = None,
    file: RecoveryFile | None = None,
) -> RecoveryLog:
    """Train the encoder of `model` in place; decoder and prompt encoder stay as they are.

    The boxes are exact, since the teacher's answers were made with exact ones. The global random state is
    neither read nor changed. A non-finite loss or gradient ends the recovery with the last good copy of the
    encoder. A batch that does not fit into memory is taken in parts whose gradients add up to the batch's.

    Args:
        images: the calibration images. teacher: its answers on exactly these images, in their order.
        file: keeps the state between steps; if it holds one of this recovery, that goes on from there.

    Raises:
        MedcoreError: there are steps to take, but no images, or teacher and images differ in number.
        StorageError: the state cannot be written.
    """
    if settings.steps == 0:
        return RecoveryLog()
    if len(images) == 0 or len(teacher) != len(images):
        raise MedcoreError(
            f"recovery: {len(images)} calibration images but {len(teacher)} teacher answers; "
            "compute the teacher on the same, non-empty images"
        )
    batches = draw_batches(images.complexity, settings.steps, settings.batch_size, seed)
    with only_training(model, [model.image_encoder]) as parameters:
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        identity = f"{seed} {settings} {model.spec.to_json()}"
        state = RecoveryState(identity, parameters, optimizer, LastGood(parameters), RecoveryLog(), Parts())
        if file is not None:
            file.load(state)
        log, good, parts = state.log, state.good, state.parts
        for step in range(log.steps, settings.steps):
            factor = rate_factor(step, settings.steps, settings.schedule, settings.warmup)
            set_rate(optimizer, settings.lr * factor)
            loss_of = functools.partial(_loss, model, images, teacher, batches[step], settings)
            figures = parts.backward(settings.batch_size, loss_of, optimizer)
            # one transfer for all figures, and only now: a device must not wait for it before the backward pass
            loss, *values = figures.tolist()
            log.split = parts.note(settings.batch_size)
            log.stopped = _trouble(loss, parameters, step)
            if log.stopped is not None:
                good.restore()
                return log
            good.saw(step)
            optimizer.step()
            log.losses.append(loss)
            log.terms.append(dict(zip(TERMS, values, strict=True)))
            if file is not None:
                file.after_step(state)
            if on_step is not None:
                on_step(step, loss, log.terms[-1])
        if not all_finite(parameters):
            log.stopped = f"non-finite weights after step {settings.steps - 1}"
            good.restore()
    return log


def _trouble(loss: float, parameters: list[torch.nn.Parameter], step: int) -> str | None:
    """Why the step must not be taken, or None."""
    if not math.isfinite(loss):
        return f"non-finite loss ({loss}) at step {step}"
    if not all_finite([parameter.grad for parameter in parameters if parameter.grad is not None]):
        return f"non-finite gradient at step {step}"
    return None


def _loss(
    model: MedSam,
    images: ImageSet,
    teacher: Teacher,
    batch: npt.NDArray[np.intp],
    settings: RecoverySettings,
    part: slice,
) -> Tensor:
    """Recovery loss of a part of one batch and its detached terms: (1 + terms,) on the model's device, full precision.

    Each is a mean over the part's images, which are of one size.
    """
    indices, device = batch[part], device_of(model)
    teacher_embedding, teacher_logits = teacher.batch(indices, device)
    with mixed_precision(device, settings.autocast):
        embedding = model.encode(images.tensor(indices).to(device))
        logits = model.decode(embedding, images.box_tensor(indices).to(device))
    total, terms = recovery_loss(
        logits,
        images.low_mask_tensor(logits.shape[-1], indices).to(device),
        images.mask_tensor(indices).to(device),
        embedding,
        teacher_embedding,
        teacher_logits,
        settings.lambdas,
    )
    return torch.stack([total, *(terms[name] for name in TERMS)])
