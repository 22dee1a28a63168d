"""Explanations of the figures and words of a page, from the registry of figures."""

from __future__ import annotations

from collections.abc import Iterable

from medcore.quality.catalogue import figures
from medcore.quality.figures import FIGURES, TERMS
from results.stats.labels import column_title, short_title, title


def glossary(names: Iterable[str], terms: Iterable[str]) -> dict[str, str]:
    """Return explanations by title: of these terms, then of these figures in the registry's order.

    Names that are no figures, and figures without an explanation, are left out.
    """
    wanted = {*names}
    known = {figure.title: figure.meaning for figure in figures() if figure.name in wanted and figure.meaning}
    return {term: TERMS[term] for term in terms} | known


def tips() -> dict[str, str]:
    """Return the explanation of every figure by each title that it has in a table's head."""
    return {
        head: FIGURES[name].meaning
        for name in FIGURES
        if FIGURES[name].meaning
        for head in (title(name), short_title(name), column_title(name))
    }
