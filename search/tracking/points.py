"""What of a study goes to the tracking server, as plain values; `search.tracking.tracker` sends it."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from results.stats import labels
from results.stats.pareto import front_ranks, hypervolume_trace, objective_losses, to_losses
from results.store.trials import StudyInfo
from search.base.logins import hide_login
from search.base.objectives import Row

#: Of a row, what is neither a parameter nor a metric.
_IDENTITY = {"trial_id", "number", "status", "reason", "seed", "origin", "started", "finished"}
_TAG_LENGTH, _PARAM_LENGTH = 5000, 500


class Point(NamedTuple):
    """One metric value; `timestamp` in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


def run_params(row: Row) -> dict[str, str]:
    """Sampled parameters, seed and budgets of a trial."""
    params = {
        key.removeprefix("param/"): value
        for key, value in row.items()
        if key.startswith("param/") and value is not None
    }
    params["seed"] = row.get("seed")
    params.update((key, row[key]) for key in ("heads", "channels") if isinstance(row.get(key), Sequence))
    return {clean_key(key): _text(value)[:_PARAM_LENGTH] for key, value in params.items()}


def run_points(row: Row, phases: Iterable[Row]) -> list[Point]:
    """Final metrics at step 0 and phase metrics at their steps.

    Timestamps come from the row, or from a phase metric that has a `time` of its own, so that sending a trial twice
    writes the same points and not more of them.
    """
    _, end = run_times(row)
    points = [
        Point(clean_key(key), float(value), end, 0)
        for key, value in row.items()
        if key not in _IDENTITY and not key.startswith("param/") and _is_finite(value)
    ]
    points += [
        Point(
            clean_key(f"{phase['phase']}/{phase['name']}"),
            float(phase["value"]),
            int(phase.get("time", end)),
            int(phase["step"]),
        )
        for phase in phases
        if _is_finite(phase["value"])
    ]
    return points


def run_tags(row: Row) -> dict[str, str]:
    """Tags of a trial's run, less its front membership."""
    tags = {f"medcore.{key}": row.get(key) for key in ("trial_id", "number", "status", "origin", "reason", "git")}
    return {key: _text(value)[:_TAG_LENGTH] for key, value in tags.items() if value is not None}


def run_name(row: Row) -> str:
    """`t0017 · 41 % FLOPs · BF1 0.712`: what a list of runs must tell apart; `t0003 · failed` without a result."""
    if row["status"] == "failed":
        return f"{row['trial_id']} · failed"
    share = row.get("flops_paper_fraction", row.get("flops_fraction"))
    words = [str(row["trial_id"])]
    words += [f"{100 * share:.0f} % FLOPs"] if _is_finite(share) else []
    words += [f"BF1 {row['boundary_f1']:.3f}"] if _is_finite(row.get("boundary_f1")) else []
    return " · ".join(words)


def description(about: Mapping[str, Any], info: StudyInfo, study_dir: str) -> str:
    """Markdown for the parent run: what was searched, on what, from which reference, and how to go on from here.

    `about`: the study's note (`search.tracking.note`), with the flat configuration in `params`.
    """
    params, dense = about["params"], info["dense"]
    goals = ", ".join(f"{goal['name']} {'down' if goal['direction'] == 'min' else 'up'}" for goal in info["objectives"])
    metrics = ("boundary_f1", "hd95", "dice", "flops", "flops_paper")
    known = ", ".join(
        f"{labels.METRICS[name].title} {labels.text(name, dense[name])}" for name in metrics if name in dense
    )
    datasets = ", ".join(f"`{folder}`" for folder in about["datasets"])
    return "\n".join([
        f"**{info['name']}**: how far each block of `{params.get('model.adapted', '?')}` can be pruned "
        f"(general model `{params.get('model.base', '?')}`).",
        "",
        f"- objectives: {goals}",
        f"- data: {datasets}; searched on `{params.get('data.search_split', '?')}`, reported on "
        f"`{params.get('data.report_split', '?')}`",
        f"- unpruned model on the search images: {known}",
        "- front: `front.html` and `front.csv` among the artifacts; its trials have the tag `medcore.front = true`",
        "",
        "```",
        shlex.join(["medcore", "search", f"{study_dir}/config.yaml", "--resume"]),
        shlex.join(["medcore", "front", study_dir]),
        shlex.join(["medcore", "export", study_dir, "--select", "knee", "--out", "best.safetensors"]),
        "```",
    ])  # fmt: skip


def run_times(row: Row) -> tuple[int, int]:
    """Start and end in milliseconds; 0 where the row states none."""
    start, end = (_milliseconds(row.get(key)) for key in ("started", "finished"))
    return start or end, end


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration as dotted keys, without logins."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[clean_key(f"{prefix}{key}")] = hide_login(_text(value))[:_PARAM_LENGTH]
    return flat


def front_ranks_of(rows: Sequence[Row], info: StudyInfo) -> dict[str, int]:
    """Rank of every trial by what has been measured so far, 1 for the Pareto front; failed ones have none."""
    ranks = front_ranks(_losses(rows, info))
    return {str(row["trial_id"]): int(rank) for row, rank in zip(rows, ranks, strict=True) if rank}


def study_points(rows: Sequence[Row], info: StudyInfo, known: int) -> list[Point]:
    """The parent's curves over the number of ended trials: counts, best of each objective, hypervolume.

    `known`: trials whose points are at the server. Points carry the time of the trial that they end with, so that
    curves of a study that is sent late look as if it had been followed.
    """
    rows = sorted(rows, key=lambda row: (run_times(row)[1], row["number"]))
    losses = _losses(rows, info)
    directions = [objective["direction"] for objective in info["objectives"]]
    names = [objective["name"] for objective in info["objectives"]]
    corner = to_losses([info["reference"][name] for name in names], directions)[0]
    usable = np.where(np.isfinite(losses).all(axis=1)[:, None], losses, np.inf)
    best = to_losses(np.minimum.accumulate(usable, axis=0), directions)
    failed = np.array([row["status"] == "failed" for row in rows])
    curves = {f"best/{name}": best[:, column] for column, name in enumerate(names)}
    curves |= {"hypervolume": hypervolume_trace(losses, corner), "trials_failed": np.cumsum(failed)}
    curves["trials_done"] = np.cumsum(~failed)  # the last one to arrive tells that all have
    return [
        Point(clean_key(key), float(values[step]), run_times(rows[step])[1], step + 1)
        for key, values in curves.items()
        for step in range(known, len(rows))
        if np.isfinite(values[step])
    ]


def clean_key(key: str) -> str:
    """MLflow's alphabet for names: letters, digits, `_ - . : /` and space; at most 250 characters."""
    return re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII).strip("/")[:250]


def _losses(rows: Sequence[Row], info: StudyInfo) -> Any:
    names = [objective["name"] for objective in info["objectives"]]
    columns = ["trial_id", "status", *names]
    frame = pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=columns)
    return objective_losses(frame, info["objectives"])


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _milliseconds(stamp: Any) -> int:
    try:
        return int(datetime.fromisoformat(stamp).timestamp() * 1000)
    except (TypeError, ValueError):
        return 0
