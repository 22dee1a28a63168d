"""The cascade: prune one family, recover, prune the other, recover (method §6); resumable at phase ends."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medcore.data import ImageSet
from medcore.errors import MedcoreError
from medcore.groups import PerGroup
from medcore.prune import prune
from medcore.recovery import RecoveryLog, RecoverySettings, Teacher, recover
from medcore.sam import MedSam
from medcore.spec import EncoderSpec

Order = Literal["heads_first", "mlp_first", "together"]

#: Phases of each order. A pruning phase is named after the family it cuts; "both" cuts the two at once.
PHASES: dict[str, tuple[str, ...]] = {
    "heads_first": ("heads", "heads_recovery", "mlp", "mlp_recovery"),
    "mlp_first": ("mlp", "mlp_recovery", "heads", "heads_recovery"),
    "together": ("both", "both_recovery"),
}

#: Called at the end of each phase with its name, the model then, and the recovery's log (None after pruning).
OnPhase = Callable[[str, MedSam, RecoveryLog | None], None]
#: Called after each recovery step with the phase, the step, the loss and its terms.
OnPhaseStep = Callable[[str, int, float, dict[str, float]], None]


@dataclass(frozen=True)
class CascadeSettings:
    """How to recover after cutting heads and after cutting MLP channels, and in which order.

    "together" has one recovery: `heads_recovery` with the steps of both, so that all orders train as long.
    """

    heads_recovery: RecoverySettings = field(default_factory=RecoverySettings)
    mlp_recovery: RecoverySettings = field(default_factory=RecoverySettings)
    order: Order = "heads_first"

    def __post_init__(self) -> None:
        if self.order not in PHASES:
            raise MedcoreError(f"cascade: unknown order '{self.order}'; known are {', '.join(PHASES)}")

    @property
    def phases(self) -> tuple[str, ...]:
        return PHASES[self.order]

    def recovery(self, phase: str) -> RecoverySettings:
        """Settings of the recovery phase `phase`."""
        if phase == "heads_recovery":
            return self.heads_recovery
        if phase == "mlp_recovery":
            return self.mlp_recovery
        steps = self.heads_recovery.steps + self.mlp_recovery.steps
        return dataclasses.replace(self.heads_recovery, steps=steps)


def cascade(
    model: MedSam,
    masks: PerGroup,
    images: ImageSet,
    teacher: Teacher,
    settings: CascadeSettings,
    seed: int,
    on_phase: OnPhase | None = None,
    done: int = 0,
    on_step: OnPhaseStep | None = None,
) -> MedSam:
    """Prune `model` by `masks` and recover it, phase by phase; `model` itself is not changed.

    Each recovery has a seed of its own that depends only on `seed` and the phase's place, so that a cascade
    resumed from the model saved after phase k (`done=k`) ends in the same weights as one never interrupted.

    A recovery that ended early (`log.stopped`) leaves a finite model, and the cascade goes on; `on_phase` may
    raise to end it there.

    Args:
        model: the model after the first `done` phases; widths as before pruning if `done` is 0.
        masks: bool, what to keep, over the widths before pruning, also when resuming.

    Raises:
        MedcoreError: the model's widths are not those after `done` phases, or `done` is out of range.
    """
    phases = settings.phases
    if not 0 <= done <= len(phases):
        raise MedcoreError(f"cascade: {done} phases done, but {settings.order} has {len(phases)}")
    _check_widths(model.spec, masks, phases[:done], settings.order)
    owned = False
    for index, phase in enumerate(phases[done:], start=done):
        log: RecoveryLog | None = None
        if phase.endswith("_recovery"):
            if not owned:
                model = copy.deepcopy(model)
            report = None if on_step is None else functools.partial(on_step, phase)
            log = recover(model, images, teacher, settings.recovery(phase), _phase_seed(seed, index), report)
        else:
            model = prune(model, _only(phase, masks, model.spec))
        owned = True
        if on_phase is not None:
            on_phase(phase, model, log)
    return model


def _phase_seed(seed: int, index: int) -> int:
    """Independent streams for the phases of one run."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _only(phase: str, masks: PerGroup, spec: EncoderSpec) -> PerGroup:
    """Masks of the family that `phase` cuts; the other family is kept as wide as it is in `spec`."""
    heads = masks.heads if phase in ("heads", "both") else tuple(np.ones(n, bool) for n in spec.heads)
    channels = masks.channels if phase in ("mlp", "both") else tuple(np.ones(n, bool) for n in spec.channels)
    return PerGroup(heads, channels)


def _check_widths(spec: EncoderSpec, masks: PerGroup, done: tuple[str, ...], order: str) -> None:
    """Raise `MedcoreError` unless `spec` is as wide as a model after the phases `done`."""
    for family, widths, keeps, cuts in (
        ("heads", spec.heads, masks.heads, ("heads", "both")),
        ("channels", spec.channels, masks.channels, ("mlp", "both")),
    ):
        cut = any(phase in cuts for phase in done)
        expected = tuple(int(keep.sum()) if cut else len(keep) for keep in keeps)
        if expected != tuple(widths):
            raise MedcoreError(
                f"cascade: after {len(done)} phases of {order} the {family} must be {list(expected)}, but "
                f"the model has {list(widths)}; pass the model saved after phase {len(done)}"
            )
