"""Registry of plans: how a schedule's phases follow each other (method §6). It needs no torch.

The phases of a plan are known before the first one runs, so any schedule can be resumed after any phase. What a phase
does may depend on the state that it starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from medcore.registry import Registry
from medcore.training.orders import TOGETHER, phase_names
from medcore.training.rounds import Phase

if TYPE_CHECKING:
    from medcore.training.schedule import Schedule

#: The plan whose rounds each cut a fixed step.
ROUNDS = "rounds"
#: Share of the recovery steps after which the plan `plateau` cuts nothing more.
LAST_CUT = Fraction(2, 5)


@dataclass(frozen=True)
class Plan:
    """One plan.

    Attributes:
        phases: Returns all phases of a schedule in their order.
        own_ranking: Whether the plan orders and ranks groups by itself, so that `order` and `rescore` do not apply.
            Its groups are ranked by the local output error.
    """

    phases: Callable[[Schedule], tuple[Phase, ...]]
    own_ranking: bool = False


PLANS: Registry[Plan] = Registry("plan of a schedule")


def _rounds(schedule: Schedule) -> tuple[Phase, ...]:
    phases = []
    for number, target in enumerate(schedule.targets):
        place = (number, len(schedule.targets), target)
        if schedule.rescore and number:
            phases.append(Phase("score", "score", (), *place))
        for name, families in phase_names(schedule.order, schedule.families):
            phases.append(Phase(name, "cut", families, *place))
            if schedule.refits:
                phases.append(Phase(f"{name}_refit", "refit", families, *place))
            phases.append(Phase(f"{name}_recovery", "recovery", families, *place))
    return tuple(phases)


def _plateau(schedule: Schedule) -> tuple[Phase, ...]:
    """Return a round and a recovery for each target, then the last round, a refit and the rest of the recovery."""
    count, final = len(schedule.targets), schedule.targets[-1]
    ((name, families),) = phase_names(TOGETHER, schedule.families)
    phases = []
    for number in range(count + 1):
        place, last = (number, count + 1, final), number == count
        end = Fraction(1) if last else LAST_CUT * (number + 1) / count
        phases.append(Phase(name, "round", families, *place))
        if last and schedule.refits:
            phases.append(Phase(f"{name}_refit", "refit", families, *place))
        phases.append(Phase(f"{name}_recovery", "recovery", families, *place, (LAST_CUT * number / count, end)))
    return tuple(phases)


PLANS.register(ROUNDS)(Plan(_rounds))
PLANS.register("plateau")(Plan(_plateau, own_ranking=True))
