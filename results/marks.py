"""How trials look in every interactive picture of a study; every colour has a symbol beside it."""

from __future__ import annotations

from dataclasses import dataclass

from results.pictures import BLACK, BLUE, GREEN, PURPLE, VERMILION


@dataclass(frozen=True)
class Mark:
    """How trials of one origin are drawn; `size` is plotly's, in pixels."""

    title: str
    colour: str
    symbol: str  # plotly's name
    marker: str  # matplotlib's name
    size: int
    faint: float  # opacity where dominated: samples are many, starts are few and are what the front must beat

    def name(self, on_front: bool) -> str:
        return f"{self.title}, {'on the front' if on_front else 'dominated'}"

    def opacity(self, on_front: bool) -> float:
        return 1.0 if on_front else self.faint


MARKS = {
    "sampled": Mark("searched", BLUE, "circle", "o", 9, 0.3),
    "uniform": Mark("uniform budgets", GREEN, "square", "s", 9, 0.6),
    "rule": Mark("paper's rule", VERMILION, "diamond", "D", 9, 0.6),
    "dense": Mark("dense model", BLACK, "star", "*", 15, 0.8),
    "other": Mark("other start", PURPLE, "triangle-up", "^", 10, 0.6),
}
