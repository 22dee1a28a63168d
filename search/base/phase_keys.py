"""Keys of the figures that a trial's phases report to Tune."""

from __future__ import annotations

#: Percent of the trial's recovery steps that are done. It only grows.
PROGRESS = "progress"
#: Place of the fidelity that the figures were measured at, from 0. Other phases lack it.
FIDELITY = "fidelity"
#: 1 where the trial continues whatever its figures are.
EXEMPT = "exempt"
#: Where Tune finds the figures of a phase in a flat result.
FIGURES = "figures"
