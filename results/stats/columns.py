"""Names of the columns of a trial table that come in groups, each group with a prefix of its own.

    param/NAME            a sampled parameter
    seconds/STAGE         time that a stage of the trial took
    report/METRIC         mean over held-out images
    fidelity/NAME/METRIC  figure that an unfinished trial had at the fidelity NAME
    seed_sd/METRIC        standard deviation of a repeated trial over its runs
    single/METRIC         figure of its first run alone

`results.store.trial_row.TrialRow` builds and takes apart such names; tables ask here which group a column is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: How the origin of a trial with averaged weights begins.
_AVERAGE = "average of "
#: Origin of the unpruned model, which recovers like every other: its mean is the line to compare with.
DENSE = "dense"
#: Origin of a trial that the sampler drew.
SAMPLED = "sampled"
PARAM = "param/"
STAGE = "seconds/"
#: Held-out means. Nothing is ever chosen by them.
HELD_OUT = "report/"
#: Figures before a trial's end. Only unfinished models have them, so no front looks at them.
FIDELITY = "fidelity/"
#: Columns of repeated trials, see `results.stats.repeats`. Their metrics are means over `SEEDS` runs.
SEEDS = "seeds"
SEED_SD = "seed_sd/"
SINGLE = "single/"
#: Why no rule should use a trial's times; missing without a reason. Names of batches other than one end in `_batchN`.
DOUBT = "latency_doubt"


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under column names that begin with `prefix`."""
    return {f"{prefix}{name}": value for name, value in values.items()}


def group(prefix: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of the columns that begin with `prefix`, by name without it."""
    return {str(key).removeprefix(prefix): value for key, value in row.items() if str(key).startswith(prefix)}


def average_of(trial_id: str) -> str:
    """Return the origin of a trial with the mean of the weights of a trial's runs."""
    return _AVERAGE + trial_id


def is_average(origin: str | None) -> bool:
    """Return whether an origin is that of a trial with the mean of weights."""
    return origin is not None and origin.startswith(_AVERAGE)
