"""Pruning schedules: rounds of (score, prune a step, refit, recover), resumable after every phase (method §6).

One round that begins with one family is MedCore's cascade. Several rounds with fresh scores are PSP-Seg's progressive
pruning. Targets that cut different blocks are the paper's two stages.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.models.cut import prune
from medcore.models.masks import keep_all, narrowed, select
from medcore.models.sam import MedSam
from medcore.models.sites import Family, PerSite
from medcore.models.spec import ModelSpec
from medcore.training.orders import phase_names
from medcore.training.plans import plateau
from medcore.training.plans.registry import PLANS, ROUNDS
from medcore.training.recovery import (
    RecoveryFile,
    RecoveryLog,
    RecoverySettings,
    Teacher,
    Training,
    recover_in_parts,
)
from medcore.training.refit.dense_streams import DenseStreams
from medcore.training.refit.refit import RefitLog, RefitSettings, refit
from medcore.training.rounds import Phase, grown, on_the_way


@dataclass(frozen=True)
class State:
    """State of a schedule: what the next phase needs, and nothing else.

    Attributes:
        model: the model as it is now; a schedule never changes it in place.
        kept: bool over the groups that the model had before the first phase, which of them `model` still has.
        scores: scores of the groups that `model` has, in its widths; the next pruning phase ranks by them.
        done: number of phases that have ended.
        progress: where the rounds of a plateau plan stand; None for another plan.
        masked: bool over the groups of `model`, those that do not take part and may come back; None: there is none.
    """

    model: MedSam
    kept: PerSite
    scores: PerSite
    done: int = 0
    progress: plateau.Progress | None = None
    masked: PerSite | None = None

    @property
    def running(self) -> MedSam:
        """Return the model without the masked groups."""
        return self.model if self.masked is None else prune(self.model, _others(self.masked))


#: Computes fresh scores of a pruned model: the model and its `kept` (see `State`) -> scores in its widths.
Scorer = Callable[[MedSam, PerSite], PerSite]


@dataclass(frozen=True)
class Inputs:
    """What the phases of a schedule learn from.

    Attributes:
        images: images to recover on.
        teacher: answers of the model at the start of the run on exactly these images, in their order.
        streams: streams of that model for refits, with images of their own; needed if the schedule refits.
    """

    images: ImageSet
    teacher: Teacher
    streams: DenseStreams | None = None


@dataclass(frozen=True)
class PhaseEnd:
    """Result of one phase of a schedule.

    Attributes:
        phase: the phase.
        state: the state after it.
        log: the recovery's log; None for a phase of another kind.
        refit: the refit's log; None for a phase of another kind.
        paused: whether the phase only pauses. The state is then that before the phase with the model as it is now, and
            changes when the schedule continues.
    """

    phase: Phase
    state: State
    log: RecoveryLog | None = None
    refit: RefitLog | None = None
    paused: bool = False


@dataclass(frozen=True)
class Schedule:
    """The widths to cut down to and how to recover.

    Attributes:
        targets: widths after each round; no site may ever grow. The plan `plateau` has as many rounds and
            goes to the last.
        recovery: family -> recovery after cutting it; the steps are spread evenly over the rounds. An order that cuts
            all families at once has one recovery a round: that of the first family with the steps of all, so that
            all orders train as long.
        order: order of the phases of a round, a name in `medcore.training.orders.orders`.
        rescore: whether every round but the first ranks by fresh scores.
        refit: how to refit after every cut; None, or no images, for no refit.
        pauses: shares of the last recovery's steps after which it pauses.
        plan: how the phases follow each other, a name in `medcore.training.plans.registry.PLANS`.

    Raises:
        MedcoreError: the order or the plan is unknown, there is no target, or a target grows.
    """

    targets: tuple[ModelSpec, ...]
    recovery: Mapping[str, RecoverySettings] = field(default_factory=dict)
    order: str = "heads_first"
    rescore: bool = False
    refit: RefitSettings | None = None
    pauses: tuple[float, ...] = ()
    plan: str = ROUNDS

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError("schedule: needs at least one target")
        phase_names(self.order, self.families)
        PLANS[self.plan]
        for number, (before, after) in enumerate(zip(self.targets, self.targets[1:], strict=False)):
            if grown(before, after):
                raise ConfigError(f"schedule: round {number + 2} keeps more than round {number + 1} in some block")

    @property
    def refits(self) -> bool:
        """Return whether a refit follows every cut."""
        return self.refit is not None and self.refit.images > 0

    @property
    def families(self) -> tuple[Family, ...]:
        """Return the families that the architecture can lose."""
        return self.targets[0].arch.families

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in their order."""
        return PLANS[self.plan].phases(self)

    def recovery_of(self, phase: Phase) -> RecoverySettings:
        """Return the settings of a recovery phase. All of them together take exactly the configured steps."""
        each = [self.recovery.get(family.name, RecoverySettings()) for family in phase.families]
        return dataclasses.replace(each[0], steps=phase.steps_of(sum(settings.steps for settings in each)))

    def pauses_of(self, phase: Phase) -> list[int]:
        """Return the numbers of steps after which a recovery phase pauses."""
        if phase != self.phases[-1]:
            return []
        return [round(share * self.recovery_of(phase).steps) for share in self.pauses]


def start_of(model: MedSam, scores: PerSite) -> State:
    """Return the state before the first phase; `scores` in the model's widths."""
    return State(model, keep_all(model.spec), scores)


def run_phases(
    schedule: Schedule,
    state: State,
    inputs: Inputs,
    seed: int,
    score: Scorer | None = None,
    file: RecoveryFile | None = None,
) -> Iterator[PhaseEnd]:
    """Run the remaining phases of a schedule one by one and yield the end of each.

    Each recovery has a seed of its own that depends only on `seed` and on the phase's place. So a schedule that is
    resumed from the state after phase k ends like one that was never interrupted: in the same bits on a CPU, up to the
    rounding of non-deterministic kernels on a GPU.

    A recovery that ends early (`log.stopped`) leaves a finite model, and the next phase follows. A pause changes no
    result.

    Args:
        schedule: What to cut and how to recover.
        state: The state after the first `state.done` phases.
        inputs: What refits and recoveries learn from.
        seed: Seed of the whole schedule.
        score: Scores a model; needed if the schedule scores again after its first round.
        file: Keeps the state within recoveries. The first recovery continues from what it holds. Remove it once the
            state after the phase is saved.

    Yields:
        The end of each phase, and each pause of the last recovery.

    Raises:
        MedcoreError: The model's widths are not those after `state.done` phases, that number is out of range, or a
            scorer or streams are missing.
    """
    if score is None and any(phase.kind in ("score", "round") for phase in schedule.phases[state.done :]):
        raise ConfigError("schedule: it scores again, but no scorer is given")
    if schedule.refits and inputs.streams is None:
        raise ConfigError("schedule: refits are configured, but the inputs hold no streams of the unpruned model")
    _check_state(schedule.phases, state)
    for phase in schedule.phases[state.done :]:
        if phase.kind == "score":
            assert score is not None
            end = PhaseEnd(phase, _after(state, scores=score(state.model, state.kept)))
        elif phase.kind == "cut":
            end = PhaseEnd(phase, _cut(phase, state))
        elif phase.kind == "round":
            assert score is not None
            end = PhaseEnd(phase, _round(schedule, phase, state, inputs, score))
        elif phase.kind == "refit":
            assert schedule.refit is not None and inputs.streams is not None
            model = copy.deepcopy(state.model)
            fit = refit(model, inputs.streams, schedule.refit)
            end = PhaseEnd(phase, _after(state, model=model), refit=fit)
        else:
            ends = _recovered(schedule, state, inputs, seed, file)
            end = next(ends)
            while end.paused:
                yield end
                end = next(ends)
        state = end.state
        yield end


def _recovered(
    schedule: Schedule, state: State, inputs: Inputs, seed: int, file: RecoveryFile | None
) -> Iterator[PhaseEnd]:
    """Yield each pause of the recovery phase that comes next, and last its end."""
    phase = schedule.phases[state.done]
    run = Training(
        model=copy.deepcopy(state.running),
        images=inputs.images,
        teacher=inputs.teacher,
        settings=schedule.recovery_of(phase),
        seed=_phase_seed(seed, state.done),
    )
    now, log = dataclasses.replace(state, model=run.model), RecoveryLog()
    for log in recover_in_parts(run, schedule.pauses_of(phase), file=file):
        if log.stopped is None and log.steps < run.settings.steps:
            yield PhaseEnd(phase, now, log, paused=True)
    whole = run.model if state.masked is None else plateau.put_back(state.model, run.model, _others(state.masked))
    yield PhaseEnd(phase, _after(state, model=whole), log)


def _after(state: State, **changes: Any) -> State:
    """Return the state after one more phase, which changed some of its parts."""
    return dataclasses.replace(state, **changes, done=state.done + 1)


def _cut(phase: Phase, state: State) -> State:
    """Return the state after a pruning phase."""
    return _after(_without(state, select(state.scores, _cut_to(phase, state.model.spec))))


def _round(schedule: Schedule, phase: Phase, state: State, inputs: Inputs, score: Scorer) -> State:
    """Return the state after a round of a plateau plan: what was masked is cut or comes back, and more may be masked.

    The last round cuts all that is left of the way to the target.
    """
    before = state.progress or plateau.Progress(step=1 / (phase.rounds - 1))
    loss = plateau.loss_on(state.running, inputs.images, schedule.recovery_of(phase).autocast)
    progress = plateau.judged(before, loss)
    if state.masked is not None and progress.cut == before.masked:
        state = _without(state, _others(state.masked))
    state = dataclasses.replace(state, masked=None)
    if phase.is_last_round:
        state = dataclasses.replace(state, scores=score(state.model, state.kept))
        return _after(_without(state, select(state.scores, phase.target)), progress=progress)
    if not plateau.fires(before, progress):
        return _after(state, progress=progress)
    progress = plateau.advanced(progress)
    start = ModelSpec(phase.target.arch, tuple(map(len, state.kept)))
    scores = score(state.model, state.kept)
    masked = _others(select(scores, on_the_way(start, phase.target, Fraction(progress.masked))))
    return _after(state, scores=scores, masked=masked, progress=progress)


def _without(state: State, masks: PerSite) -> State:
    """Return the state without the groups whose mask is False."""
    return dataclasses.replace(
        state,
        model=prune(state.model, masks),
        kept=narrowed(state.kept, masks),
        scores=_picked(state.scores, masks),
    )


def _others(masks: PerSite) -> PerSite:
    """Return the opposite of boolean masks."""
    return tuple(~mask for mask in masks)


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


def _check_state(phases: Sequence[Phase], state: State) -> None:
    """Check that the model is as wide as it must be after its phases.

    `kept` and `scores` must fit the model too.

    Raises:
        MedcoreError: the widths differ, the next target keeps more than the model has, or so many phases do not exist.
    """
    if not 0 <= state.done <= len(phases):
        raise ConfigError(f"schedule: {state.done} phases done, but it has {len(phases)}")
    spec = state.model.spec
    expected = spec
    for phase in phases[: state.done]:
        if phase.kind == "cut" or (phase.kind == "round" and phase.is_last_round):
            expected = _cut_to(phase, expected)
    counts = tuple(int(kept.sum()) for kept in state.kept)
    if not spec.widths == expected.widths == counts == tuple(map(len, state.scores)):
        raise ConfigError(
            f"schedule: after {state.done} phases the widths must be {expected.budget}, but the model has "
            f"{spec.budget}, its masks keep {list(counts)}; pass the state saved after phase {state.done}"
        )
    if state.done < len(phases) and grown(spec, phases[state.done].target):
        raise ConfigError("schedule: the next target keeps more than the model has in some block")
