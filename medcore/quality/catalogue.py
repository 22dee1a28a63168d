"""Queries to the registry of figures: the lists of names that rows, tables and texts use."""

from __future__ import annotations

from collections.abc import Collection

# importing the metrics registers them
import medcore.quality.metrics  # noqa: F401
from medcore.quality.figures import FIGURES, GROUPS, Figure, Metric

_OF_THE_ENCODER = ("flops_fraction", "flops_paper_fraction", "encoder_params_fraction")


def metrics() -> list[Metric]:
    """Return the quality metrics in the order of registration, which is that of a row's columns."""
    return [figure for figure in map(FIGURES.__getitem__, FIGURES) if isinstance(figure, Metric)]


def ranked() -> list[str]:
    """Return the names of the quality metrics, the most important first."""
    return [metric.name for metric in sorted(metrics(), key=lambda metric: metric.rank)]


def headlines() -> list[str]:
    """Return the names of the few metrics that stand for a model.

    The most important comes first.
    """
    names = {metric.name for metric in metrics() if metric.headline}
    return [name for name in ranked() if name in names]


def worst_by() -> str:
    """Return the metric whose largest values point out the worst images.

    This is the first headline metric for which less is better.
    """
    return next(name for name in headlines() if FIGURES[name].lower_is_better)


def always_shown() -> list[str]:
    """Return the metrics that tables of a front have even if they are no objectives."""
    return [metric.name for metric in metrics() if metric.always_shown]


def shown() -> list[str]:
    """Return the names of the quality metrics as tables list them.

    Those of which more is better come first, each group by rank.
    """
    return sorted(ranked(), key=lambda name: FIGURES[name].lower_is_better)


def figures() -> list[Figure]:
    """Return all figures as people read them: by group, quality metrics as in `shown`."""
    quality = [FIGURES[name] for name in shown()]
    others = [figure for figure in map(FIGURES.__getitem__, FIGURES) if figure not in quality]
    return sorted(others + quality, key=lambda figure: GROUPS.index(figure.group))


def latency_names() -> list[str]:
    """Return the figures that `medcore latency` measures, of one image a call."""
    return [name for name in FIGURES if FIGURES[name].group == "time"]


def cost_shares() -> list[str]:
    """Return the figures that give a computed cost as a share of the dense model's."""
    return [name for name in FIGURES if FIGURES[name].group == "cost" and FIGURES[name].kind == "share"]


def known_costs(figures: Collection[str]) -> list[str]:
    """Return the shares of `cost_shares` that a table of models has a column for.

    Args:
        figures: names of the models' figures. Those of the encoder have a column in any case.
    """
    return [name for name in cost_shares() if name in figures or name in _OF_THE_ENCODER]
