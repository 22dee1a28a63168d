"""What an exported model takes on disk, as a sentence and as a table of the model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medcore.models.formats.precision import Sizes  # loads torch


@dataclass(frozen=True)
class FileSize:
    """Size of an exported model.

    Attributes:
        precision: Of the numbers in its files.
        written: Bytes of the files with weights.
        sizes: Bytes of its tensors and of the dense model's in this precision.
    """

    precision: str
    written: int
    sizes: Sizes

    @property
    def left(self) -> float:
        """Return the written bytes as a share of the dense model's."""
        return self.written / self.sizes.dense

    def sentence(self) -> str:
        """Say what was written, what the dense model takes, and what no pruning makes smaller."""
        parts = sorted(self.sizes.unpruned.items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts)
        return (
            f"{bytes_text(self.written)} in {self.precision}, {self.left:.1%} of the dense model's "
            f"{bytes_text(self.sizes.dense)} in the same precision; {bytes_text(sum(self.sizes.unpruned.values()))} of "
            f"either are never pruned ({listed})"
        )

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return the rows of the card's table: what, this model, dense model, share that is left."""
        sizes = self.sizes
        unpruned = sum(sizes.unpruned.values())
        kept = sizes.model - unpruned
        rows = [
            ("weights on disk", bytes_text(self.written), bytes_text(sizes.dense), f"{self.left:.1%}"),
            ("what pruning can remove", *_pair(kept, sizes.prunable)),
            ("never pruned", *_pair(unpruned, unpruned)),
        ]
        return rows + [(f"– {name}", *_pair(size, size)) for name, size in sizes.unpruned.items()]


def bytes_text(size: int) -> str:
    """Return bytes as text in kB or MB, which are 10^3 and 10^6 bytes."""
    if size < 10**5:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size >= 10**7 else f"{size / 1e6:.2f} MB"


def _pair(this: int, dense: int) -> tuple[str, str, str]:
    return bytes_text(this), bytes_text(dense), f"{this / dense:.1%}" if dense else "–"
