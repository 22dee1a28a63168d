"""Grades of rankings against the oracle, their uncertainty, and both as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.shapley.oracle import MEASURES, Ranking, ranking_of
from medcore.scoring.rankings import agreement, agreement_within, rank_variance
from medcore.scoring.shapley import Estimate, Floats, estimate
from results.pages.markdown import table

#: Resamples of the oracle's images for intervals.
RESAMPLES = 300


def rank_variances(folds: Sequence[Ranking]) -> dict[str, float]:
    """Variances of ranks over folds, as shares of that of random rankings."""
    shares = {}
    for place, name in enumerate(("within", "overall")):
        parts = [fold.within if place == 0 else (fold.overall,) for fold in folds]
        sites = [part for part in zip(*parts, strict=True) if len(part[0]) > 1]
        each = [rank_variance(site) / ((len(site[0]) ** 2 - 1) / 12) for site in sites]
        shares[f"variance_{name}"] = float(np.mean(each))
    return shares


def graded(one: Ranking, folds: Sequence[Ranking], oracles: dict[str, Ranking]) -> dict[str, float]:
    """Agreement with each oracle, its standard deviation over folds, and the variances of ranks."""
    row = rank_variances(folds)
    for name, oracle in oracles.items():
        for kind in ("within", "overall"):
            compare = agreement_within if kind == "within" else agreement
            of_folds = [compare(getattr(fold, kind), getattr(oracle, kind)) for fold in folds]
            row[f"{kind}/{name}"] = compare(getattr(one, kind), getattr(oracle, kind))
            row[f"{kind}/{name}/sd"] = float(np.std(of_folds, ddof=1))
    return row


def random_rankings(like: Ranking, count: int) -> list[Ranking]:
    """Rankings by random scores."""
    random = np.random.default_rng(0)
    drawn = [tuple(random.random(len(site)) for site in like.within) for _ in range(count)]
    return [Ranking(within, np.concatenate(within)) for within in drawn]


def random_row(drawn: Sequence[Ranking], oracles: dict[str, Ranking]) -> dict[str, float]:
    """Means over random rankings, and their standard deviations."""
    rows = pd.DataFrame([graded(each, drawn[:2], oracles) for each in drawn])
    grades = [key for key in rows if "/" in key and not key.endswith("/sd")]
    spread = {f"{key}/sd": float(rows[key].std()) for key in grades}
    return {**{key: float(rows[key].mean()) for key in grades}, **spread, **rank_variances(drawn)}


def noise_of(widths: Sequence[int], samples: Floats, found: Estimate) -> pd.DataFrame:
    """How exact the oracle is: errors next to the spread of values, and agreement of two halves of the pairs."""
    halves = [estimate(samples[start::2]).values for start in range(2)]
    rows = []
    for place, name in enumerate(MEASURES):
        first, second = (ranking_of(widths, half[:, place]) for half in halves)
        values, errors = found.values[:, place], found.errors[:, place]
        rows.append(
            {
                "measure": name,
                "all_less_none": values.sum(),
                "spread": values.std(ddof=1),
                "largest": values.max(),
                "error_mean": errors.mean(),
                "error_largest": errors.max(),
                "halves_within": agreement_within(first.within, second.within),
                "halves_overall": agreement(first.overall, second.overall),
            }
        )
    return pd.DataFrame(rows)


def differences(
    widths: Sequence[int], samples: Floats, datasets: Sequence[str], rankings: dict[str, Ranking], to: str
) -> pd.DataFrame:
    """Agreement of each ranking with the oracle less that of the ranking `to`, with 95 % intervals.

    The oracle's images are resampled within their data sets; the rankings stay.
    """
    random = np.random.default_rng(0)
    groups = [np.flatnonzero(np.array(datasets) == name) for name in sorted(set(datasets))]
    drawn = [np.concatenate([random.choice(group, len(group)) for group in groups]) for _ in range(RESAMPLES)]
    by_image = samples.mean(axis=0)
    rows = []
    for place, measured in enumerate(MEASURES):
        values = [by_image[chosen, :, place].mean(axis=0) for chosen in [np.arange(len(by_image)), *drawn]]
        for kind, compare in (("within", agreement_within), ("overall", agreement)):
            oracles = [getattr(ranking_of(widths, each), kind) for each in values]
            found = {
                name: np.array([compare(getattr(ranking, kind), oracle) for oracle in oracles])
                for name, ranking in rankings.items()
            }
            for name in rankings:
                less = found[name] - found[to]
                low, high = np.percentile(less[1:], [2.5, 97.5])
                rows.append({"ranking": name, "kind": f"{kind}/{measured}", "less": less[0], "low": low, "high": high})
    return pd.DataFrame(rows)


def difference_text(table_of: pd.DataFrame, to: str) -> str:
    """The differences in Markdown, one row a ranking."""
    kinds = list(table_of["kind"].unique())
    lines = [
        [name, *(f"{row.less:+.2f} ({row.low:+.2f} to {row.high:+.2f})" for row in part.itertuples())]
        for name, part in table_of.groupby("ranking", sort=False)
        if name != to
    ]
    return table([f"less {to}", *kinds], lines)


def text_of(grades: pd.DataFrame, noise: pd.DataFrame) -> str:
    """Grades and noise in Markdown."""
    kinds = [(kind, name) for kind in ("within", "overall") for name in MEASURES]
    where = {"within": "within blocks", "overall": "all heads"}
    head = ["ranking", *(f"{where[kind]}, by {MEASURES[name]} (sd)" for kind, name in kinds)]
    head += ["rank variance within", "all"]
    cuts = [name for name in ("cut", "refit") if name in grades]
    head += [f"halved: {name}" for name in cuts]
    lines = []
    for row in grades.to_dict("records"):
        cells = [f"{row[f'{kind}/{name}']:.2f} ({row[f'{kind}/{name}/sd']:.2f})" for kind, name in kinds]
        ends = [f"{row['variance_within']:.2f}", f"{row['variance_overall']:.2f}"]
        lines.append([row["ranking"], *cells, *ends, *(f"{row[name]:.3f}" for name in cuts)])
    columns = list(noise.columns)
    cells = [[row["measure"], *(f"{row[name]:.3g}" for name in columns[1:])] for row in noise.to_dict("records")]
    return f"{table(head, lines)}\n\n{table(columns, cells)}\n"
