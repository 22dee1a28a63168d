"""Pruning schedules: rounds of (score, cut a step, recover), resumable after every phase (method §6).

One round with heads first is MedCore's cascade, several rounds with fresh scores are PSP-Seg's progressive pruning, and
targets that cut different blocks are the paper's two stages.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.groups import PerGroup
from medcore.models.masks import keep_all, select
from medcore.models.prune import prune
from medcore.models.sam import MedSam
from medcore.models.spec import EncoderSpec
from medcore.training.orders import PHASES, Order
from medcore.training.recovery import RecoveryFile, RecoveryLog, RecoverySettings, Teacher, recover


@dataclass(frozen=True)
class State:
    """Where a schedule stands: what the next phase needs, and nothing else.

    Attributes:
        model: as it is now; never changed in place by a schedule.
        kept: bool over the dense widths, which groups `model` still has.
        scores: of the groups that `model` has, in its widths; what the next pruning phase ranks by.
        done: phases behind it.
    """

    model: MedSam
    kept: PerGroup
    scores: PerGroup
    done: int = 0


#: Scores a pruned model anew: the model and its `kept` over the dense widths -> scores in the model's widths.
Scorer = Callable[[MedSam, PerGroup], PerGroup]
#: Called at the end of each phase with its name, the state then, and the recovery's log (None elsewhere).
OnPhase = Callable[[str, State, RecoveryLog | None], None]
#: Called after each recovery step with the phase, the step, the loss and its terms.
OnPhaseStep = Callable[[str, int, float, dict[str, float]], None]


@dataclass(frozen=True)
class Schedule:
    """What to cut down to and how to recover.

    Attributes:
        targets: widths after each round; no block may ever grow.
        heads_recovery, mlp_recovery: recovery after cutting heads and MLP channels; their steps are spread evenly over
            the rounds. "together" has one recovery a round: `heads_recovery` with the steps of both, so that all orders
            train as long.
        order: of the phases of a round.
        rescore: whether every round but the first ranks by fresh scores.
    """

    targets: tuple[EncoderSpec, ...]
    heads_recovery: RecoverySettings = field(default_factory=RecoverySettings)
    mlp_recovery: RecoverySettings = field(default_factory=RecoverySettings)
    order: Order = "heads_first"
    rescore: bool = False

    def __post_init__(self) -> None:
        if self.order not in PHASES:
            raise MedcoreError(f"schedule: unknown order '{self.order}'; known are {', '.join(PHASES)}")
        if not self.targets:
            raise MedcoreError("schedule: needs at least one target")
        for number, (before, after) in enumerate(zip(self.targets, self.targets[1:], strict=False)):
            if grown(before, after):
                raise MedcoreError(f"schedule: round {number + 2} keeps more than round {number + 1} in some block")

    @property
    def phases(self) -> tuple[Phase, ...]:
        found = []
        for number, target in enumerate(self.targets):
            names = (("score",) if self.rescore and number else ()) + PHASES[self.order]
            found += [Phase(name, number, len(self.targets), target) for name in names]
        return tuple(found)

    def recovery(self, phase: Phase) -> RecoverySettings:
        """Settings of a recovery phase; all rounds together take exactly the configured steps."""
        if phase.kind == "mlp_recovery":
            settings, steps = self.mlp_recovery, self.mlp_recovery.steps
        else:
            settings, steps = self.heads_recovery, self.heads_recovery.steps
        if phase.kind == "both_recovery":
            steps += self.mlp_recovery.steps
        share = steps * (phase.round + 1) // phase.rounds - steps * phase.round // phase.rounds
        return dataclasses.replace(settings, steps=share)


@dataclass(frozen=True)
class Phase:
    """One phase: its kind (a name in `PHASES`, or "score"), 0-based round, number of rounds, widths to reach."""

    kind: str
    round: int
    rounds: int
    target: EncoderSpec

    @property
    def name(self) -> str:
        """`heads`, or `r2/heads` where there are several rounds."""
        return self.kind if self.rounds == 1 else f"r{self.round + 1}/{self.kind}"


def rounds_to(start: EncoderSpec, final: EncoderSpec, count: int) -> tuple[EncoderSpec, ...]:
    """Targets of `count` rounds from the widths of `start` to `final`, an equal step in every block each time."""

    def between(old: Sequence[int], new: Sequence[int], number: int) -> tuple[int, ...]:
        # half up, so that the steps of all rounds add up to the whole
        return tuple(a - int(np.floor((a - b) * number / count + 0.5)) for a, b in zip(old, new, strict=True))

    if grown(start, final):
        raise MedcoreError("schedule: the final budget keeps more than the model has in some block")
    return tuple(
        dataclasses.replace(
            final,
            heads=between(start.heads, final.heads, number),
            channels=between(start.channels, final.channels, number),
        )
        for number in range(1, count + 1)
    )


def grown(before: EncoderSpec, after: EncoderSpec) -> bool:
    """Whether any block is wider in `after`."""
    pairs = zip((*before.heads, *before.channels), (*after.heads, *after.channels), strict=True)
    return any(new > old for old, new in pairs)


def start_of(model: MedSam, scores: PerGroup) -> State:
    """The state before the first phase; `scores` in the model's widths."""
    return State(model, keep_all(model.spec), scores)


def run_schedule(
    schedule: Schedule,
    state: State,
    images: ImageSet,
    teacher: Teacher,
    seed: int,
    score: Scorer | None = None,
    on_phase: OnPhase | None = None,
    on_step: OnPhaseStep | None = None,
    file: RecoveryFile | None = None,
) -> State:
    """Run the phases that `state` has not behind it.

    Each recovery has a seed of its own that depends only on `seed` and the phase's place, so that a schedule
    resumed from the state after phase k ends like one never interrupted: in the same bits on a CPU, up to the rounding
    of non-deterministic kernels on a GPU.

    A recovery that ended early (`log.stopped`) leaves a finite model, and the schedule goes on; `on_phase` may
    raise to end it there.

    Args:
        score: needed where the schedule scores anew.
        file: keeps the state within recoveries. What it holds of the phase after `state` is taken up; whoever saves
            the states of `on_phase` removes it then.

    Raises:
        MedcoreError: the model's widths are not those after `state.done` phases, or that number is out of range.
    """
    phases = schedule.phases
    if not 0 <= state.done <= len(phases):
        raise MedcoreError(f"schedule: {state.done} phases done, but it has {len(phases)}")
    if schedule.rescore and score is None:
        raise MedcoreError("schedule: scores are to be renewed, but no scorer is given")
    _check_widths(phases, state)
    for index, phase in enumerate(phases[state.done :], start=state.done):
        log: RecoveryLog | None = None
        model, kept, scores = state.model, state.kept, state.scores
        if phase.kind == "score":
            assert score is not None
            scores = score(model, kept)
        elif phase.kind.endswith("_recovery"):
            model = copy.deepcopy(model)
            report = None if on_step is None else functools.partial(on_step, phase.name)
            settings, own_seed = schedule.recovery(phase), _phase_seed(seed, index)
            log = recover(model, images, teacher, settings, own_seed, report, file)
        else:
            masks = select(scores, _cut_to(phase, model.spec))
            model = prune(model, masks)
            kept, scores = _narrowed(kept, masks), _picked(scores, masks)
        state = State(model, kept, scores, index + 1)
        if on_phase is not None:
            on_phase(phase.name, state, log)
    return state


def _phase_seed(seed: int, index: int) -> int:
    """Independent streams for the phases of one run."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _cut_to(phase: Phase, now: EncoderSpec) -> EncoderSpec:
    """Widths after a pruning phase: the target's in the family it cuts, today's in the other."""
    heads = phase.target.heads if phase.kind in ("heads", "both") else now.heads
    channels = phase.target.channels if phase.kind in ("mlp", "both") else now.channels
    return dataclasses.replace(now, heads=heads, channels=channels)


def _picked(values: PerGroup, masks: PerGroup) -> PerGroup:
    """The values whose mask is True."""
    pairs = ((values.heads, masks.heads), (values.channels, masks.channels))
    heads, channels = (tuple(v[mask] for v, mask in zip(*family, strict=True)) for family in pairs)
    return PerGroup(heads, channels)


def _narrowed(kept: PerGroup, masks: PerGroup) -> PerGroup:
    """`kept` over the dense widths, less what `masks` (over the kept groups) removes."""
    families = []
    for dense, mask in ((kept.heads, masks.heads), (kept.channels, masks.channels)):
        family = [block.copy() for block in dense]
        for block, keep in zip(family, mask, strict=True):
            block[np.flatnonzero(block)[~keep]] = False
        families.append(tuple(family))
    return PerGroup(families[0], families[1])


def _check_widths(phases: Sequence[Phase], state: State) -> None:
    """Raise `MedcoreError` unless the model is as wide as after its phases, and `kept` and `scores` fit it."""
    spec = state.model.spec
    expected = spec
    for phase in phases[: state.done]:
        if not phase.kind.endswith("_recovery") and phase.kind != "score":
            expected = _cut_to(phase, expected)
    groups = zip(
        (spec.heads, spec.channels),
        (expected.heads, expected.channels),
        (state.kept.heads, state.kept.channels),
        (state.scores.heads, state.scores.channels),
        strict=True,
    )
    for widths, wanted, kept, scores in groups:
        counts = tuple(int(block.sum()) for block in kept)
        if not tuple(widths) == tuple(wanted) == counts == tuple(map(len, scores)):
            raise MedcoreError(
                f"schedule: after {state.done} phases the widths must be {list(wanted)}, but the model has "
                f"{list(widths)}, its masks keep {list(counts)}; pass the state saved after phase {state.done}"
            )
    if state.done < len(phases) and grown(spec, phases[state.done].target):
        raise MedcoreError("schedule: the next target keeps more than the model has in some block")
