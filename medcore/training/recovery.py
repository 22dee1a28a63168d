"""A short training of a pruned model against the boundary and the unpruned teacher (method §6, §13)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcore.data.imageset import boundary_complexity
from medcore.data.load import ImageSet
from medcore.devices import device_of, mixed_precision
from medcore.errors import DataError
from medcore.losses import recovery_loss
from medcore.models.sam import MedSam
from medcore.training.loop import (
    RATE_FACTOR,
    AdamW,
    LastGood,
    RunningMean,
    all_finite,
    only_training,
    rate_factor,
    set_rate,
)
from medcore.training.recovery_settings import RecoverySettings
from medcore.training.recovery_state import RecoveryFile, RecoveryLog, RecoveryState
from medcore.training.teacher import Teacher, compute_teacher
from medcore.training.terms.registry import LOSS_TERMS
from medcore.training.terms.term import LossTerm, Seen

__all__ = ["RecoveryFile", "RecoveryLog", "RecoverySettings", "Teacher", "compute_teacher", "recover"]

#: Names of the loss's terms, in the order of their weights.
TERMS = ("segmentation", "boundary", "embedding", "boundary_logits", "frequency")
#: Smallest complexity of an image if the low-resolution masks give it, so that none is left out.
LEAST_COMPLEXITY = 1e-4
#: Called after every step with the 0-based step, the total loss and its unweighted terms.
OnStep = Callable[[int, float, dict[str, float]], None]


def draw_batches(complexity: npt.NDArray[np.float64], steps: int, batch_size: int, seed: int) -> npt.NDArray[np.intp]:
    """Draw images with replacement in proportion to their complexity (6.1).

    A longer draw with the same seed begins with the shorter one.

    Args:
        complexity: (N,), not negative. If all are 0, the draw is uniform.
        steps: number of batches.
        batch_size: images of a batch.
        seed: seed of the draw.

    Returns:
        Image indices (steps, batch_size).
    """
    total = complexity.sum()
    shares = complexity / total if total > 0 else np.full(len(complexity), 1 / len(complexity))
    indices = np.random.default_rng(seed).choice(len(complexity), size=(steps, batch_size), p=shares)
    return np.asarray(indices, np.intp)


@dataclass(frozen=True)
class Training:
    """What stays the same from step to step of a recovery.

    Attributes:
        model: the pruned model.
        images: images to train on.
        teacher: the unpruned model's answers on exactly these images, in their order.
        settings: how to train.
        seed: decides which images each step takes.
    """

    model: MedSam
    images: ImageSet
    teacher: Teacher
    settings: RecoverySettings
    seed: int

    @property
    def complexity(self) -> npt.NDArray[np.float64]:
        """Return the weights by which steps draw images (6.1), (N,)."""
        if self.settings.complexity == "square":
            return self.images.complexity
        masks = self.images.low_masks(self.model.arch.low_res).astype(np.uint8)
        return np.maximum(boundary_complexity(masks), LEAST_COMPLEXITY)

    @cached_property
    def terms(self) -> Mapping[str, LossTerm]:
        """Return the terms that the settings add to (6.2), by name."""
        return {name: LOSS_TERMS[name](self.model) for name in self.settings.active_terms}

    @property
    def term_names(self) -> tuple[str, ...]:
        """Return the names of the loss's terms in the order of `loss`."""
        return (*TERMS, *self.terms)

    def loss(self, batch: npt.NDArray[np.intp], piece: slice) -> Tensor:
        """Return the loss of a microbatch and its detached terms.

        Args:
            batch: image indices of the whole batch.
            piece: the microbatch's slice of them.

        Returns:
            (1 + terms,) on the model's device, in full precision. Each is a mean over the images of `batch[piece]`,
            which are of one size.
        """
        indices, device, images = batch[piece], device_of(self.model), self.images
        teacher_embedding, teacher_logits = self.teacher.batch(indices, device)
        pixels = images.tensor(indices).to(device)
        with ExitStack() as watched:
            for term in self.terms.values():
                watched.enter_context(term.watching(self.model))
            watched.enter_context(mixed_precision(device, self.settings.autocast))
            embedding = self.model.encode(pixels)
            logits = self.model.decode(embedding, images.box_tensor(indices).to(device))
        mask_low = images.low_mask_tensor(logits.shape[-1], indices).to(device)
        total, terms = recovery_loss(
            logits_low=logits,
            mask_low=mask_low,
            mask_full=images.mask_tensor(indices).to(device),
            embedding=embedding,
            teacher_embedding=teacher_embedding,
            teacher_logits=teacher_logits,
            lambdas=self.settings.lambdas,
            released=self.settings.loss == "released",
        )
        seen = Seen(pixels, logits, mask_low, teacher_logits)
        extra = [term(seen) for term in self.terms.values()]
        scales = [self.settings.terms[name] for name in self.terms]
        total = total + sum(scale * value for scale, value in zip(scales, extra, strict=True))
        return torch.stack([total, *terms.values(), *(value.detach() for value in extra)])


def recover(
    model: MedSam,
    images: ImageSet,
    teacher: Teacher,
    settings: RecoverySettings,
    seed: int,
    on_step: OnStep | None = None,
    file: RecoveryFile | None = None,
) -> RecoveryLog:
    """Train what was cut of `model`, and the mask decoder if asked, by the recovery loss (6.2), without a pause.

    Arguments and errors are those of `recover_in_parts`. A pause would not change the result.

    Args:
        model: the pruned model.
        images: images to train on.
        teacher: its answers on exactly these images, in their order.
        settings: how to train.
        seed: decides which images each step takes.
        on_step: called after every step.
        file: keeps the state between steps.

    Returns:
        The log of each step.

    Raises:
        MedcoreError: there are steps to take, but no images, or teacher and images differ in number.
        StorageError: the state cannot be written.
    """
    *_, log = recover_in_parts(Training(model, images, teacher, settings, seed), on_step=on_step, file=file)
    return log


def recover_in_parts(
    run: Training,
    pauses: Sequence[int] = (),
    on_step: OnStep | None = None,
    file: RecoveryFile | None = None,
) -> Iterator[RecoveryLog]:
    """Train what was cut of a model in place by the recovery loss (6.2), and pause on the way.

    The mask decoder trains too if the settings say so. Other parts stay as they are, the prompt encoder always. The
    boxes are exact, because the teacher's answers were made with exact ones. The global random state is neither
    read nor changed. The result has the last weights, or their mean over the last steps. A non-finite loss or
    gradient ends the recovery with the last good copy of the weights. A batch that does not fit into memory is cut
    into microbatches, whose gradients add up to the batch's.

    Args:
        run: what to train, on what and how.
        pauses: numbers of steps after which to pause. The model then holds the mean over the last steps before the
            pause, and must not be changed. A pause within the steps of the last mean is left out.
        on_step: called after every step.
        file: keeps the state between steps. If it holds the state of this recovery, training continues from there.

    Yields:
        The log so far at each pause, and last the log of all steps.

    Raises:
        MedcoreError: there are steps to take, but no images, or teacher and images differ in number.
        StorageError: the state cannot be written.
    """
    model, images, teacher, settings = run.model, run.images, run.teacher, run.settings
    if settings.steps == 0:
        yield RecoveryLog()
        return
    if len(images) == 0 or len(teacher) != len(images):
        raise DataError(
            f"recovery: {len(images)} images but {len(teacher)} teacher answers; "
            "compute the teacher on the same, non-empty images"
        )
    stops = sorted(stop for stop in set(pauses) if 0 < stop <= settings.mean_start(settings.steps))
    parts = [*model.trained, *([model.mask_decoder] if settings.train_decoder else [])]
    with only_training(model, parts) as weights:
        state = _first_state(run, weights, stops)
        if file is not None:
            file.load(state)
        for stop in (stop for stop in stops if stop >= state.log.steps):
            _take_steps(run, state, stop, on_step, file)
            if state.log.stopped is None:
                if file is not None:
                    file.save(state)
                with state.mean.in_place():
                    yield state.log
        _take_steps(run, state, settings.steps, on_step, file)
        if state.log.stopped is None and not all_finite(state.parameters):
            state.log.stopped = f"non-finite weights after step {settings.steps - 1}"
        if state.log.stopped is None:
            state.mean.put()
        else:
            state.good.restore()
    yield state.log


def _first_state(run: Training, weights: Sequence[torch.nn.Parameter], stops: Sequence[int]) -> RecoveryState:
    """Return the state before the first step of a recovery that pauses after some numbers of steps."""
    settings, own = run.settings, [term for term in run.terms.values() if term.parameters]
    of_decoder = {id(parameter) for parameter in run.model.mask_decoder.parameters()}
    encoder = [parameter for parameter in weights if id(parameter) not in of_decoder]
    decoder = [parameter for parameter in weights if id(parameter) in of_decoder]
    groups: list[dict[str, Any]] = [{"params": encoder}, {"params": decoder, RATE_FACTOR: settings.decoder_rate}]
    groups += [{"params": term.parameters, RATE_FACTOR: term.rate} for term in own]
    groups = [group for group in groups if group["params"]]
    parameters = [*encoder, *decoder, *(parameter for term in own for parameter in term.parameters)]
    return RecoveryState(
        identity=f"{run.seed} {settings.identity} {run.model.spec.to_json()}",
        parameters=parameters,
        optimizer=AdamW(
            [group for group in groups if group["params"]], lr=settings.lr, weight_decay=settings.weight_decay
        ),
        good=LastGood(parameters),
        mean=RunningMean(parameters, [settings.mean_start(end) for end in (*stops, settings.steps)]),
    )


def _take_steps(
    run: Training, state: RecoveryState, stop: int, on_step: OnStep | None, file: RecoveryFile | None
) -> None:
    """Take the steps up to `stop`, or up to the first that must not be taken."""
    if state.log.stopped is not None:
        return
    settings, log, microbatches = run.settings, state.log, state.microbatches
    batches = draw_batches(run.complexity, settings.steps, settings.batch_size, run.seed)
    for step in range(log.steps, stop):
        factor = rate_factor(step, settings.steps, settings.schedule, settings.warmup)
        set_rate(state.optimizer, settings.lr * factor)
        loss_of = functools.partial(run.loss, batches[step])
        figures = microbatches.backward(settings.batch_size, loss_of, state.optimizer)
        # one transfer for all figures, and only now: a device must not wait for it before the backward pass
        loss, *values = figures.tolist()
        log.split = microbatches.note(settings.batch_size)
        log.stopped = _trouble(loss, state.parameters, step)
        if log.stopped is not None:
            return
        state.good.saw(step)
        state.optimizer.step()
        state.mean.saw(step)
        log.losses.append(loss)
        log.terms.append(dict(zip(run.term_names, values, strict=True)))
        if file is not None:
            file.after_step(state)
        if on_step is not None:
            on_step(step, loss, log.terms[-1])


def _trouble(loss: float, parameters: Sequence[torch.nn.Parameter], step: int) -> str | None:
    """Return why the step must not be taken, or None."""
    if not math.isfinite(loss):
        return f"non-finite loss ({loss}) at step {step}"
    if not all_finite([parameter.grad for parameter in parameters if parameter.grad is not None]):
        return f"non-finite gradient at step {step}"
    return None
