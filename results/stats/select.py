"""Choose one trial of a study by a rule in words.

    knee    best:boundary_f1    flops<=120G    hd95<=8,best:dice    trial:ID

Terms are joined by commas. Constraints filter the front; `knee` or `best:METRIC` then decides among the rest.
With constraints alone the first objective that they leave open decides, in the study's order. For the default
objectives `flops<=120G` takes the best Boundary F1 and `boundary_f1>=0.8` the fewest FLOPs. A constraint on
any cost figure settles all cost objectives. If nothing is open, the knee of what is left is taken.
`trial:ID` stands alone and takes any finished trial, on the front or not. A prefix is enough if only one trial fits.
The runs of a repeated trial are one candidate, with the id of the first run and the means over all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from results.stats import labels
from results.stats.columns import DOUBT, FIDELITY, HELD_OUT, PARAM, SEED_SD, SEEDS, SINGLE
from results.stats.objectives import Objective
from results.stats.pareto import Floats, front_table, knee, objective_losses

FORMS = "knee, best:METRIC, METRIC<=VALUE, METRIC>=VALUE (K, M, G, T allowed), trial:ID, joined by commas"
_CONSTRAINT = re.compile(r"(?P<metric>[^<>=]+?)\s*(?P<op><=|>=)\s*(?P<number>[^<>=]+?)\s*(?P<prefix>[KMGTkmgt]?)")
_NOT_METRICS = ("number", "seed", SEEDS)
_NOT_METRIC_GROUPS = (PARAM, HELD_OUT, FIDELITY, SEED_SD, SINGLE)


@dataclass(frozen=True)
class Constraint:
    """A limit on a figure; `lower` is <=, else >=."""

    metric: str
    lower: bool
    limit: float

    def __str__(self) -> str:
        """Return the constraint as a rule states it."""
        return f"{self.metric}{'<=' if self.lower else '>='}{labels.si(self.limit)}"

    def excess(self, values: Floats) -> Floats:
        """Return how far values (N,) miss the limit, relative to it.

        The distance is 0 if the value meets the limit, and infinite if the value is not finite.
        """
        over = (values - self.limit) if self.lower else (self.limit - values)
        share = np.maximum(over, 0.0) / (abs(self.limit) or 1.0)
        return np.where(np.isfinite(values), share, np.inf)


@dataclass(frozen=True)
class Rule:
    """A parsed rule; at most one of `knee`, `best` and `trial` is set."""

    constraints: list[Constraint] = field(default_factory=list)
    knee: bool = False
    best: str | None = None
    trial: str | None = None


def parse(rule: str) -> Rule:
    """Read a rule in words.

    Raises:
        MedcoreError: The rule has none of the accepted forms, which the message lists.
    """
    constraints: list[Constraint] = []
    deciders: list[dict[str, Any]] = []
    for term in (part.strip() for part in rule.split(",")):
        name, _, value = (part.strip() for part in term.partition(":"))
        if term == "knee":
            deciders.append({"knee": True})
        elif name in ("best", "trial") and value:
            deciders.append({name: value})
        elif match := _CONSTRAINT.fullmatch(term):
            constraints.append(_constraint(match, rule))
        else:
            raise MedcoreError(f"rule '{rule}': cannot read '{term}'; a rule is {FORMS}")
    if len(deciders) > 1 or ("trial" in (deciders or [{}])[0] and constraints):
        raise MedcoreError(f"rule '{rule}': at most one of knee and best:METRIC may decide, and trial:ID stands alone")
    return Rule(constraints, **(deciders[0] if deciders else {}))


def choose(df: pd.DataFrame, objectives: Sequence[Objective], rule: str) -> pd.Series[Any]:
    """Return the row of the trial table that the rule takes (see the module's text).

    Raises:
        MedcoreError: The rule cannot be read, a metric is unknown (the message lists the metrics), the front is
            empty, or no trial meets the rule (the message names the nearest one).
    """
    wanted = parse(rule)
    if wanted.trial is not None:
        return _by_id(df, wanted.trial)
    front = front_table(df, objectives)
    if front.empty:
        raise MedcoreError("the front is empty: no trial of this study finished with finite objectives")
    kept = _constrained(front, wanted.constraints)
    losses = objective_losses(kept, objectives)
    metric = wanted.best
    if metric is None and not wanted.knee and wanted.constraints:
        metric = _open_objective(objectives, wanted.constraints)
    if metric is None:
        return kept.iloc[knee(losses)]
    ours = _values(kept, metric) * _sign(metric, objectives)
    # np.lexsort's last key is its first criterion: the metric, then the objectives in their order
    order = np.lexsort([*losses.T[::-1], np.where(np.isfinite(ours), ours, np.inf)])
    return kept.iloc[int(order[0])]


def metric_names(df: pd.DataFrame) -> list[str]:
    """Return the columns that a rule may name.

    A rule may name numeric columns, except parameters, bookkeeping, held-out figures, figures of unfinished trials, and
    what repeated trials have next to their means.
    """
    names = [str(name) for name in df.select_dtypes("number").columns]
    return [name for name in names if name not in _NOT_METRICS and not name.startswith(_NOT_METRIC_GROUPS)]


def _constraint(match: re.Match[str], rule: str) -> Constraint:
    try:
        number = float(match["number"])
    except ValueError:
        raise MedcoreError(f"rule '{rule}': '{match['number']}' is no number; a rule is {FORMS}") from None
    if not np.isfinite(number):
        raise MedcoreError(f"rule '{rule}': a limit must be finite")
    scale = labels.SI[match["prefix"].upper()] if match["prefix"] else 1.0
    return Constraint(match["metric"].strip(), match["op"] == "<=", number * scale)


def _by_id(df: pd.DataFrame, wanted: str) -> pd.Series[Any]:
    ids = df["trial_id"].astype(str)
    hits = df[ids == wanted]
    if hits.empty:
        hits = df[ids.str.startswith(wanted)]
    if hits.empty:
        near = difflib.get_close_matches(wanted, ids.tolist(), n=3, cutoff=0.0)
        raise MedcoreError(f"no finished trial '{wanted}' in this study; nearest: {', '.join(near) or 'none'}")
    if len(hits) > 1:
        some = ", ".join(hits["trial_id"].astype(str).head(5))
        raise MedcoreError(f"'{wanted}' fits {len(hits)} trials ({some}); give more of the id")
    row = hits.iloc[0]
    if row["status"] != "done":
        state = "failed" if row["status"] == "failed" else "is not done"
        raise MedcoreError(f"trial {row['trial_id']} {state} ({row.get('reason')}); choose one that is done")
    return row


def _constrained(front: pd.DataFrame, constraints: Sequence[Constraint]) -> pd.DataFrame:
    excess = np.zeros(len(front))
    for constraint in constraints:
        excess = excess + constraint.excess(_values(front, constraint.metric))
    if (excess == 0).any():
        return front.iloc[np.flatnonzero(excess == 0)]
    rule = ",".join(map(str, constraints))
    if not np.isfinite(excess).any():
        raise MedcoreError(f"no trial on the front has measured what {rule} asks for; use another metric")
    row = front.iloc[int(np.argmin(excess))]
    has = ", ".join(f"{c.metric} {labels.si(float(row[c.metric]))}" for c in constraints)
    raise MedcoreError(f"no trial on the front meets {rule}; the nearest is trial:{row['trial_id']} with {has}")


def _values(df: pd.DataFrame, metric: str) -> Floats:
    """Return a front's metric (N,) float64.

    Raises:
        MedcoreError: The metric is unknown (the message lists the metrics), is a held-out figure, or was not measured
            for some member of the front, since a choice among the others would be one by chance.
    """
    names = metric_names(df)
    if metric.startswith(HELD_OUT):
        raise MedcoreError(
            f"{metric} is a held-out figure, and choosing by it would spoil it; choose by what the search measured, "
            f"such as {metric.removeprefix(HELD_OUT)}"
        )
    batch = metric.partition("_batch")[2]
    if labels.is_latency(metric):
        unknown = len(df) if metric not in names else int(df[metric].isna().sum())
        option = f" --batch 1,{batch}" if batch.isdecimal() else ""
        if unknown:
            raise MedcoreError(
                f"{metric} is not known for {unknown} of {len(df)} members of the front; "
                f"run `medcore latency STUDY{option}` first"
            )
        _require_sound(df, metric, batch)
    if metric not in names:
        close = difflib.get_close_matches(metric, names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise MedcoreError(f"unknown metric '{metric}'{hint}; this study has {', '.join(names)}")
    return df[metric].to_numpy(dtype=np.float64, na_value=np.nan)


def _require_sound(df: pd.DataFrame, metric: str, batch: str) -> None:
    """Check that rules may use the times of a front; memory is never in doubt.

    Raises:
        MedcoreError: Some were measured on a busy machine, or are too uncertain.
    """
    column = DOUBT + (f"_batch{batch}" if batch else "")
    if metric.startswith("peak_") or column not in df or not df[column].notna().any():
        return
    row = df[df[column].notna()].iloc[0]
    raise MedcoreError(
        f"{metric} is doubtful for {int(df[column].notna().sum())} of {len(df)} members of the front (trial "
        f"{row['trial_id']}: {row[column]}); run `medcore latency STUDY --again` when nothing else runs, or `medcore "
        "latency STUDY --accept` to use the times as they are"
    )


def _sign(metric: str, objectives: Sequence[Objective]) -> float:
    """Return +1 if lower is better, else −1.

    The study's objectives decide, then what is known of the metric.
    """
    for objective in objectives:
        if objective.name == metric:
            return objective.sign
    lower = labels.lower_is_better(metric)
    if lower is None:
        raise MedcoreError(f"best:{metric}: not known whether lower or higher is better; use {metric}<= or >=")
    return 1.0 if lower else -1.0


def _open_objective(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> str | None:
    """Return the first objective that no constraint settles; None if all are settled."""
    settled = {labels.base_name(c.metric) or c.metric for c in constraints}
    cost_settled = any(labels.is_cost(name) for name in settled)
    for objective in objectives:
        name = objective.name
        if (labels.base_name(name) or name) not in settled and not (cost_settled and labels.is_cost(name)):
            return name
    return None
