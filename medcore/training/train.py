"""Training at full length, to adapt a general model or to fine-tune a chosen one (method §6)."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet, jitter_boxes
from medcore.devices import Microbatches, device_of, mixed_precision
from medcore.errors import ClusterError, DataError
from medcore.losses import segmentation_loss
from medcore.models.sam import MedSam
from medcore.training.flips import flipped, flipped_boxes
from medcore.training.loop import (
    AdamW,
    LastGood,
    all_finite,
    check_range,
    check_schedule,
    only_training,
    rate_factor,
    set_rate,
)
from medcore.training.train_state import EpochRow, TrainLog, TrainState
from medcore.training.world import World

__all__ = ["EpochRow", "TrainLog", "TrainSettings", "train"]

Indices = npt.NDArray[np.intp]
#: Images (B, 3, S, S), masks (B, 1, S, S) and boxes (B, 4), float32.
Batch = tuple[Tensor, Tensor, Tensor]
#: A training by this process alone.
ALONE = World()


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training. The defaults are the reference's (method §6).

    Attributes:
        epochs: most epochs.
        lr: learning rate.
        weight_decay: of AdamW.
        batch_size: images of a step.
        clip: largest norm of a gradient.
        patience: epochs without a better validation loss after which training ends; 0 never ends it early.
        schedule: course of the learning rate, "constant" or "cosine" (to 1 %).
        warmup: steps of linear rise before it.
        jitter: largest move of a box's edges, as a share of its width or height.
        horizontal_flip: whether to mirror images and boxes left-right with probability ½.
        vertical_flip: whether to mirror images and boxes up-down with probability ½.
        autocast: whether to run the model in bfloat16; losses and weights stay in float32.

    Raises:
        MedcoreError: a value is out of range.
    """

    epochs: int = 20
    lr: float = 1e-4
    weight_decay: float = 0.01
    batch_size: int = 4
    clip: float = 1.0
    patience: int = 5
    schedule: str = "cosine"
    warmup: int = 0
    jitter: float = 0.05
    horizontal_flip: bool = False
    vertical_flip: bool = False
    autocast: bool = False

    def __post_init__(self) -> None:
        check_range(
            "training",
            epochs=(self.epochs, 0, math.inf),
            lr=(self.lr, 0, math.inf),
            weight_decay=(self.weight_decay, 0, math.inf),
            batch_size=(self.batch_size, 1, math.inf),
            clip=(self.clip, 1e-9, math.inf),
            patience=(self.patience, 0, math.inf),
            warmup=(self.warmup, 0, math.inf),
            jitter=(self.jitter, 0, 0.49),
        )
        check_schedule("training", self.schedule)


# nine parameters, because a training has many inputs and reports and resumes; most callers give five
def train(
    model: MedSam,
    train: ImageSet,
    val: ImageSet | None,
    settings: TrainSettings,
    seed: int,
    on_epoch: Callable[[EpochRow], None] | None = None,
    train_prompt_encoder: bool = False,
    state_path: Path | None = None,
    world: World = ALONE,
) -> TrainLog:
    """Train encoder and mask decoder of `model` in place by Dice + BCE (method §6).

    The model ends with the weights of the best validation loss, or with the last ones where `val` is None.
    Order, jitter and flips of an epoch depend only on `seed` and the epoch; the global random state is
    neither read nor changed. A non-finite loss or gradient ends the training with the best weights so far
    (without validation: the last good ones) and the reason in `stopped`. A batch that does not fit into
    memory is cut into microbatches, whose gradients add up to the batch's.

    Several processes, each on a device of its own, share out every batch and the validation, and end in the same
    weights as one would, up to rounding. All of them pass the same arguments; the first one writes the state, which all
    read, and calls `on_epoch`. A training can continue from the state of another number of processes.

    Args:
        model: the model to train.
        train: images to train on.
        val: images to validate with after each epoch, or None.
        settings: how to train.
        seed: decides order, jitter and flips.
        on_epoch: called after each epoch.
        train_prompt_encoder: whether the prompt encoder trains too.
        state_path: file rewritten at the end of each epoch. If it exists, the training continues from there and ends in
            the same weights as one that was never interrupted. A finished training is not run again. A file whose
            training had other inputs is an error and not overwritten, because it may hold hours of work.
        world: the processes that train together, with the same `model`, images and settings each.

    Returns:
        The log of each epoch.

    Raises:
        MedcoreError: no images, or the state file is unreadable or belongs to another training; the message names
            what differs.
    """
    if len(train) == 0 or (val is not None and len(val) == 0):
        raise DataError("training: no images to train on or to validate with; check the data's parts")
    modules: list[nn.Module] = [model.image_encoder, model.mask_decoder]
    if train_prompt_encoder:
        modules.append(model.prompt_encoder)
    with only_training(model, modules) as parameters:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        optimizer = AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        run = _Run(model, train, val, settings, seed, parameters=parameters, optimizer=optimizer, world=world)
        state = TrainState(parameters, optimizer, {} if state_path is None else run.identity(names))
        if state_path is not None:
            _load(state, state_path, world)
        _run_epochs(run, state, on_epoch, state_path)
        state.restore_best()
    return state.log


def _run_epochs(
    run: _Run, state: TrainState, on_epoch: Callable[[EpochRow], None] | None, state_path: Path | None
) -> None:
    """Run the epochs that are left, and save the state after each."""
    log, good = state.log, LastGood(run.parameters)
    while log.stopped is None and not log.out_of_patience and len(log.epochs) < run.settings.epochs:
        outcome = run.epoch(len(log.epochs), good)
        if isinstance(outcome, EpochRow):
            state.end_epoch(outcome, run.settings.patience)
        else:
            log.stopped = outcome
        # without an epoch there is nothing to resume, and the file would refuse a restart at a lower rate
        if state_path is not None and log.epochs:
            _save(state, state_path, run.world)
        if isinstance(outcome, EpochRow) and on_epoch is not None and run.world.rank == 0:
            on_epoch(outcome)


def _load(state: TrainState, path: Path, world: World) -> None:
    world.together(lambda: state.load(path))
    if not world.same(len(state.log.epochs)):
        raise ClusterError(f"{path}: not every process finds the same state; put it on storage that all nodes share")


def _save(state: TrainState, path: Path, world: World) -> None:
    world.together(lambda: state.save(path) if world.rank == 0 else None)


@dataclass(frozen=True)
class _Run:
    """What stays the same from epoch to epoch of a training."""

    model: MedSam
    train: ImageSet
    val: ImageSet | None
    settings: TrainSettings
    seed: int
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    world: World = ALONE
    microbatches: Microbatches = field(default_factory=Microbatches)

    def identity(self, trained: Sequence[str]) -> dict[str, str]:
        """Return what a training depends on, so that it resumes only its own state.

        It must be called before the first step, because the model's weights are the starting weights.

        Args:
            trained: names of the trained parameters.

        Returns:
            By kind of input a text that differs between trainings with different inputs.
        """
        return {
            "architecture": self.model.spec.to_json(),
            "starting weights": _fingerprint(self.model),
            "trained parameters": hashlib.sha256("\n".join(trained).encode()).hexdigest(),
            "training images": self.train.fingerprint(),
            "validation images": "none" if self.val is None else self.val.fingerprint(),
            "settings": repr(self.settings),
            "seed": str(self.seed),
        }

    def epoch(self, epoch: int, good: LastGood) -> EpochRow | str:
        """Take one pass over the training images and validate.

        Returns:
            The epoch's row. After a blow-up its reason, and good weights are restored.
        """
        settings, size = self.settings, self.settings.batch_size
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.train))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        losses, rate = 0.0, 0.0
        for number, indices in enumerate(batches):
            step, total = epoch * len(batches) + number, settings.epochs * len(batches)
            rate = settings.lr * rate_factor(step, total, settings.schedule, settings.warmup)
            set_rate(self.optimizer, rate)
            share, weight = self.world.share(len(indices))
            batch = _augmented(self.train, indices, share, settings, random)
            loss_of = functools.partial(_part_loss, self.model, batch, weight, settings.autocast)
            loss = self.microbatches.backward(share.stop - share.start, loss_of, self.optimizer)
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            self.world.add_up([loss, *gradients])
            norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip)
            value = loss.item()
            # both come from sums over all processes, so all processes decide alike
            if not (math.isfinite(value) and math.isfinite(norm.item())):
                good.restore()
                return f"non-finite loss or gradient at step {number} of epoch {epoch}"
            good.saw(step)
            self.optimizer.step()
            losses += value * len(indices)
        judged = None if self.val is None else validation_loss(self.model, self.val, settings, self.world)
        finite = all_finite(self.parameters) and (judged is None or math.isfinite(judged))
        if self.world.any(not finite):
            good.restore()
            return f"non-finite weights or validation loss after epoch {epoch}"
        return EpochRow(epoch, losses / len(self.train), judged, rate)


@torch.no_grad()
def validation_loss(model: MedSam, images: ImageSet, settings: TrainSettings, world: World = ALONE) -> float:
    """Return the training loss with exact boxes and no augmentation.

    The loss is the mean over images of their batch's loss.

    Args:
        model: the model.
        images: the validation images.
        settings: batch size and precision.
        world: processes that take turns with the batches. Each returns the result of all images.
    """

    def summed(pieces: list[slice]) -> float:
        batches = [indices[piece] for piece in pieces]
        return sum(float(_loss(model, _batch(images, batch), settings.autocast)) * len(batch) for batch in batches)

    total, microbatches = 0.0, Microbatches()
    starts = range(0, len(images), settings.batch_size)
    for start in starts[world.rank :: world.size]:
        indices = np.arange(start, min(start + settings.batch_size, len(images)))
        total += microbatches.run(len(indices), summed)
    return world.total(total) / len(images)


def _fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of the state dictionary."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _loss(model: MedSam, batch: Batch, autocast: bool) -> Tensor:
    device = device_of(model)
    images, masks, boxes = (part.to(device) for part in batch)
    with mixed_precision(device, autocast):
        logits = model.segment(images, boxes)
    return segmentation_loss(logits, masks)


def _part_loss(model: MedSam, batch: Batch, weight: float, autocast: bool, part: slice) -> Tensor:
    """Return the weighted loss of one microbatch, (1,)."""
    images, masks, boxes = batch
    return weight * _loss(model, (images[part], masks[part], boxes[part]), autocast)[None]


def _batch(images: ImageSet, indices: Indices) -> Batch:
    return images.tensor(indices), images.mask_tensor(indices), images.box_tensor(indices)


def _augmented(
    images: ImageSet, indices: Indices, share: slice, settings: TrainSettings, random: np.random.Generator
) -> Batch:
    """Return a share of a batch with jittered boxes and images flipped if configured.

    Random numbers come from `random` alone. They are drawn for the whole batch, so they do not depend on how the batch
    is shared out.
    """
    own = indices[share]
    pictures, masks, boxes = images.tensor(own), images.mask_tensor(own), images.box_tensor(indices)
    for axis, wanted in ((3, settings.horizontal_flip), (2, settings.vertical_flip)):
        if wanted:
            chosen = random.random(len(indices)) < 0.5
            lengths = np.array([images.inner_size(index)[axis - 2] for index in np.asarray(indices)], np.intp)
            pictures, masks = (flipped(part, chosen[share], axis, lengths[share]) for part in (pictures, masks))
            boxes = flipped_boxes(boxes, chosen, axis, lengths)
    jittered = jitter_boxes(boxes.numpy(), random, settings.jitter, size=images.size)
    return pictures, masks, torch.from_numpy(jittered[share])
