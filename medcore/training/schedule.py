"""Pruning schedules: rounds of (score, prune a step, recover), resumable after every phase (method §6).

One round that begins with one family is MedCore's cascade. Several rounds with fresh scores are PSP-Seg's progressive
pruning. Targets that cut different blocks are the paper's two stages.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.models.cut import prune
from medcore.models.masks import keep_all, select
from medcore.models.sam import MedSam
from medcore.models.sites import Family, PerSite
from medcore.models.spec import ModelSpec
from medcore.training.orders import phase_names
from medcore.training.recovery import RecoveryFile, RecoveryLog, RecoverySettings, Teacher, recover


@dataclass(frozen=True)
class State:
    """State of a schedule: what the next phase needs, and nothing else.

    Attributes:
        model: the model as it is now; a schedule never changes it in place.
        kept: bool over the dense widths, which groups `model` still has.
        scores: scores of the groups that `model` has, in its widths; the next pruning phase ranks by them.
        done: number of phases that have ended.
    """

    model: MedSam
    kept: PerSite
    scores: PerSite
    done: int = 0


#: Computes fresh scores of a pruned model: the model and its `kept` over the dense widths -> scores in its widths.
Scorer = Callable[[MedSam, PerSite], PerSite]


@dataclass(frozen=True)
class PhaseEnd:
    """Result of one phase of a schedule.

    Attributes:
        phase: the phase.
        state: the state after it.
        log: the recovery's log; None for a phase of another kind.
    """

    phase: Phase
    state: State
    log: RecoveryLog | None = None


@dataclass(frozen=True)
class Schedule:
    """The widths to cut down to and how to recover.

    Attributes:
        targets: widths after each round; no site may ever grow.
        recovery: family -> recovery after cutting it; the steps are spread evenly over the rounds. An order that cuts
            all families at once has one recovery a round: that of the first family with the steps of all, so that
            all orders train as long.
        order: order of the phases of a round, a name in `medcore.training.orders.orders`.
        rescore: whether every round but the first ranks by fresh scores.

    Raises:
        MedcoreError: the order is unknown, there is no target, or a target grows.
    """

    targets: tuple[ModelSpec, ...]
    recovery: Mapping[str, RecoverySettings] = field(default_factory=dict)
    order: str = "heads_first"
    rescore: bool = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError("schedule: needs at least one target")
        phase_names(self.order, self.families)
        for number, (before, after) in enumerate(zip(self.targets, self.targets[1:], strict=False)):
            if grown(before, after):
                raise ConfigError(f"schedule: round {number + 2} keeps more than round {number + 1} in some block")

    @property
    def families(self) -> tuple[Family, ...]:
        """Return the families that the architecture can lose."""
        return self.targets[0].arch.families

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in their order."""
        phases = []
        for number, target in enumerate(self.targets):
            place = (number, len(self.targets), target)
            if self.rescore and number:
                phases.append(Phase("score", "score", (), *place))
            for name, families in phase_names(self.order, self.families):
                phases.append(Phase(name, "cut", families, *place))
                phases.append(Phase(f"{name}_recovery", "recovery", families, *place))
        return tuple(phases)

    def recovery_of(self, phase: Phase) -> RecoverySettings:
        """Return the settings of a recovery phase.

        All rounds together take exactly the configured steps.
        """
        each = [self.recovery.get(family.name, RecoverySettings()) for family in phase.families]
        steps = sum(settings.steps for settings in each)
        share = steps * (phase.round + 1) // phase.rounds - steps * phase.round // phase.rounds
        return dataclasses.replace(each[0], steps=share)


@dataclass(frozen=True)
class Phase:
    """One phase of a schedule.

    Attributes:
        stage: its name within a round.
        kind: what it does.
        families: families that it cuts, or recovers from.
        round: number of its round, from 0.
        rounds: number of rounds.
        target: widths to reach in this round.
    """

    stage: str
    kind: Literal["score", "cut", "recovery"]
    families: tuple[Family, ...]
    round: int
    rounds: int
    target: ModelSpec

    @property
    def name(self) -> str:
        """Return the name: `mlp`, or `r2/mlp` where there are several rounds."""
        return self.stage if self.rounds == 1 else f"r{self.round + 1}/{self.stage}"

    @property
    def is_recovery(self) -> bool:
        """Return whether the phase trains the model."""
        return self.kind == "recovery"


def rounds_to(start: ModelSpec, final: ModelSpec, count: int) -> tuple[ModelSpec, ...]:
    """Return the targets of `count` rounds with equal steps at every site (6.3).

    Args:
        start: widths before the first round.
        final: widths after the last round.
        count: number of rounds.

    Raises:
        MedcoreError: a site would grow.
    """

    def between(number: int) -> tuple[int, ...]:
        # half up, so that the steps of all rounds add up to the whole
        pairs = zip(start.widths, final.widths, strict=True)
        return tuple(a - int(np.floor((a - b) * number / count + 0.5)) for a, b in pairs)

    if grown(start, final):
        raise ConfigError("schedule: the final budget keeps more than the model has in some block")
    return tuple(ModelSpec(final.arch, between(number)) for number in range(1, count + 1))


def grown(before: ModelSpec, after: ModelSpec) -> bool:
    """Return whether any site is wider in `after`."""
    return any(new > old for old, new in zip(before.widths, after.widths, strict=True))


def start_of(model: MedSam, scores: PerSite) -> State:
    """Return the state before the first phase; `scores` in the model's widths."""
    return State(model, keep_all(model.spec), scores)


def run_phases(
    schedule: Schedule,
    state: State,
    images: ImageSet,
    teacher: Teacher,
    seed: int,
    score: Scorer | None = None,
    file: RecoveryFile | None = None,
) -> Iterator[PhaseEnd]:
    """Run the remaining phases of a schedule one by one and yield the end of each.

    Each recovery has a seed of its own that depends only on `seed` and on the phase's place. So a schedule that is
    resumed from the state after phase k ends like one that was never interrupted: in the same bits on a CPU, up to the
    rounding of non-deterministic kernels on a GPU.

    A recovery that ends early (`log.stopped`) leaves a finite model, and the next phase follows.

    Args:
        schedule: What to cut and how to recover.
        state: The state after the first `state.done` phases.
        images: Calibration images.
        teacher: The unpruned model's answers on them, in their order.
        seed: Seed of the whole schedule.
        score: Scores a model; needed if the schedule scores again after its first round.
        file: Keeps the state within recoveries. The first recovery continues from what it holds. Remove it once the
            state after the phase is saved.

    Yields:
        The end of each phase.

    Raises:
        MedcoreError: The model's widths are not those after `state.done` phases, or that number is out of range.
    """
    phases = schedule.phases
    if not 0 <= state.done <= len(phases):
        raise ConfigError(f"schedule: {state.done} phases done, but it has {len(phases)}")
    if schedule.rescore and score is None:
        raise ConfigError("schedule: scores are to be renewed, but no scorer is given")
    _check_widths(phases, state)
    for index, phase in enumerate(phases[state.done :], start=state.done):
        log: RecoveryLog | None = None
        model, kept, scores = state.model, state.kept, state.scores
        if phase.kind == "score":
            assert score is not None
            scores = score(model, kept)
        elif phase.kind == "recovery":
            model = copy.deepcopy(model)
            log = recover(model, images, teacher, schedule.recovery_of(phase), _phase_seed(seed, index), file=file)
        else:
            masks = select(scores, _cut_to(phase, model.spec))
            model = prune(model, masks)
            kept, scores = _narrowed(kept, masks), _picked(scores, masks)
        state = State(model, kept, scores, index + 1)
        yield PhaseEnd(phase, state, log)


def _phase_seed(seed: int, index: int) -> int:
    """Return a seed of an independent stream for each phase of one run."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _cut_to(phase: Phase, now: ModelSpec) -> ModelSpec:
    """Return the widths after a pruning phase.

    The families that the phase cuts get the target's widths. The others keep those of `now`.
    """
    sites = zip(now.arch.sites, phase.target.widths, now.widths, strict=True)
    return ModelSpec(now.arch, tuple(target if site.family in phase.families else old for site, target, old in sites))


def _picked(values: PerSite, masks: PerSite) -> PerSite:
    """Return the values whose mask is True."""
    return tuple(value[mask] for value, mask in zip(values, masks, strict=True))


def _narrowed(kept: PerSite, masks: PerSite) -> PerSite:
    """Return `kept` over the dense widths, less what `masks` removes.

    `masks` are over the kept groups.
    """
    narrowed = tuple(dense.copy() for dense in kept)
    for dense, keep in zip(narrowed, masks, strict=True):
        dense[np.flatnonzero(dense)[~keep]] = False
    return narrowed


def _check_widths(phases: Sequence[Phase], state: State) -> None:
    """Check that the model is as wide as it must be after its phases.

    `kept` and `scores` must fit the model too.

    Raises:
        MedcoreError: the widths differ, or the next target keeps more than the model has.
    """
    spec = state.model.spec
    expected = spec
    for phase in phases[: state.done]:
        if phase.kind == "cut":
            expected = _cut_to(phase, expected)
    counts = tuple(int(kept.sum()) for kept in state.kept)
    if not spec.widths == expected.widths == counts == tuple(map(len, state.scores)):
        raise ConfigError(
            f"schedule: after {state.done} phases the widths must be {expected.budget}, but the model has "
            f"{spec.budget}, its masks keep {list(counts)}; pass the state saved after phase {state.done}"
        )
    if state.done < len(phases) and grown(spec, phases[state.done].target):
        raise ConfigError("schedule: the next target keeps more than the model has in some block")
