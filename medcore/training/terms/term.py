"""What a term of the recovery loss is: a figure of one microbatch, and parameters of its own if it needs any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from medcore.models.sam import MedSam


@dataclass(frozen=True)
class Seen:
    """What a term sees of a microbatch of B images, all on the model's device.

    Attributes:
        images: (B, 3, S, S), float32 in [0, 1].
        logits: z, (B, 1, low, low), with gradients.
        mask: (B, 1, low, low), values 0, 1 and `medcore.losses.IGNORED`.
        teacher_logits: (B, 1, low, low).
    """

    images: Tensor
    logits: Tensor
    mask: Tensor
    teacher_logits: Tensor


class LossTerm(ABC):
    """One term of one recovery.

    Its parameters train together with the model's and end with the recovery. They are no part of the model, so no file
    of a model holds them. The file with the state of a recovery does.

    Attributes:
        rate: factor on the learning rate for the term's own parameters.
    """

    rate: float = 1.0

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the term's own parameters, on the model's device, in a fixed order.

        They start from fixed numbers: a recovery draws no random ones.
        """
        return ()

    def watching(self, model: MedSam) -> AbstractContextManager[None]:
        """Return a context in which the term sees what happens inside the model.

        The model is as before when it ends.
        """
        return nullcontext()

    @abstractmethod
    def __call__(self, seen: Seen) -> Tensor:
        """Return the term before weighting: a scalar in float32 or better, a mean over the images."""
