"""Arguments and options that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from medcore.errors import ConfigError

Number = TypeVar("Number", int, float)

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration; see search/configs/")]
Study = Annotated[str, typer.Argument(help="Folder or mlflow:EXPERIMENT/RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Arch = Annotated[str | None, typer.Option(help="Architecture of a checkpoint that does not describe itself.")]
RayAddress = Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")]
WorkersAddress = Annotated[
    str | None, typer.Option("--ray-address", help="Address of a running Ray cluster, where `workers` is above 1.")
]


class Frame(Enum):
    """Where `medcore evaluate` compares masks."""

    ORIGINAL = "original"
    MODEL = "model"
    BOTH = "both"


@dataclass(frozen=True)
class Batches:
    """Batch sizes, from text such as `1,8`."""

    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.sizes))

    @classmethod
    def parse(cls, text: str | Batches) -> Batches:
        """Read the sizes in any order.

        Raises:
            MedcoreError: The text holds something other than whole numbers from 1 on.
        """
        try:
            sizes = sorted(set(_numbers(str(text), int)))
        except ValueError:
            sizes = []
        if not sizes or sizes[0] < 1:
            raise ConfigError(f"--batch '{text}': give whole numbers of images from 1 on, such as 1,8")
        return cls(tuple(sizes))


@dataclass(frozen=True)
class Fractions:
    """Shares of the FLOPs, from text such as `0.3,0.15`."""

    shares: tuple[float, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Fractions:
        """Read the shares.

        Raises:
            MedcoreError: The text holds something other than numbers.
        """
        try:
            return cls(_numbers(text, float) if text else (), text)
        except ValueError:
            raise ConfigError(f"--fractions '{text}': give numbers such as 0.3,0.15") from None


@dataclass(frozen=True)
class Box:
    """Corners of a box in pixels, from text such as `10,20,110,90`."""

    corners: tuple[float, float, float, float]

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read the corners.

        Raises:
            MedcoreError: The text does not hold four numbers.
        """
        try:
            x0, y0, x1, y1 = _numbers(text, float)
        except ValueError:
            raise ConfigError(f"--box '{text}': give four numbers X0,Y0,X1,Y1") from None
        return cls((x0, y0, x1, y1))


def _numbers(text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    return tuple(kind(part) for part in text.split(","))
