"""Settings of a recovery (method §6, §13)."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from medcore.errors import ConfigError
from medcore.training.loop import check_range, check_schedule
from medcore.training.orders import LossVariant, MaskSize
from medcore.training.terms.registry import LOSS_TERMS

#: Settings that came later. Those that have their defaults leave the identity as it was before.
_LATER = ("loss", "complexity", "decoder_rate", "terms", "train_decoder")


@dataclass(frozen=True)
class RecoverySettings:
    """Settings of a recovery. The defaults are the reference's (method §6).

    Attributes:
        steps: number of steps.
        lr: learning rate.
        batch_size: images of a step.
        lambdas: weights of boundary BCE, embedding, boundary logits and spectrum (6.2).
        weight_decay: of AdamW.
        schedule: course of the learning rate, "constant" or "cosine" (to 1 %).
        warmup: steps of linear rise before it.
        average: share of the last steps whose weights are averaged into the result (13.2); 0 keeps the last weights.
        autocast: whether to run the model in bfloat16; losses and weights stay in float32.
        loss: "text", or "released" for the Dice and the frequency term of MedCore's released code.
        complexity: masks whose complexity (6.1) weighs the images: those in the model's "square", or the "low" ones.
        decoder_rate: factor on the learning rate for the weights of the mask decoder, if it trains.
        train_decoder: whether the mask decoder trains also where nothing of it was cut.
        terms: weights of further terms by their names in `LOSS_TERMS`; 0 leaves a term out.

    Raises:
        MedcoreError: a value is out of range, or a term is unknown.
    """

    steps: int = 100
    lr: float = 1e-5
    batch_size: int = 4
    lambdas: tuple[float, float, float, float] = (1.0, 0.5, 2.0, 0.5)
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    average: float = 0.0
    autocast: bool = False
    loss: LossVariant = "text"
    complexity: MaskSize = "square"
    decoder_rate: float = 0.1
    train_decoder: bool = False
    terms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(
            "recovery",
            steps=(self.steps, 0, math.inf),
            lr=(self.lr, 0, math.inf),
            batch_size=(self.batch_size, 1, math.inf),
            weight_decay=(self.weight_decay, 0, math.inf),
            warmup=(self.warmup, 0, math.inf),
            average=(self.average, 0, 1),
            decoder_rate=(self.decoder_rate, 0, math.inf),
        )
        check_schedule("recovery", self.schedule)
        if len(self.lambdas) != 4 or not all(0 <= value < math.inf for value in self.lambdas):
            raise ConfigError(f"recovery: lambdas must be four numbers of at least 0, got {self.lambdas}")
        for name, weight in self.terms.items():
            if name not in LOSS_TERMS:
                known = ", ".join(LOSS_TERMS.names())
                raise ConfigError(f"recovery: terms has an unknown loss term '{name}'; known are {known}")
            check_range("recovery", **{f"terms.{name}": (weight, 0, sys.float_info.max)})

    @property
    def active_terms(self) -> dict[str, float]:
        """Return the weights above 0, in the order of the registry."""
        return {name: self.terms[name] for name in LOSS_TERMS if self.terms.get(name, 0) > 0}

    @property
    def identity(self) -> str:
        """Return the settings as text, without those that came later and have their defaults.

        So a recovery that an earlier version has begun continues.
        """
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        values["terms"] = self.active_terms
        standard = RecoverySettings()
        kept = (
            f"{name}={value!r}"
            for name, value in values.items()
            if name not in _LATER or value != getattr(standard, name)
        )
        return f"RecoverySettings({', '.join(kept)})"

    def mean_start(self, end: int) -> int:
        """Return the 0-based step after which the mean begins that ends with step number `end`.

        A mean has one step at least. Otherwise the mean of an earlier pause would not end.
        """
        return end - max(1, round(self.average * end))
