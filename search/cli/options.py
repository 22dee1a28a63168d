"""Arguments and options that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar, cast, get_args

import typer

from medcore.data.formats.windows import PRESETS, ReadingRules, Window, check_window
from medcore.data.mask_rules import Labels, Objects
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

LabelNumbers = Annotated[
    str | None,
    typer.Option(
        "--labels", metavar="any|N,N", help="Values of the object in masks with more than two: any, or a list."
    ),
]
IgnoredNumbers = Annotated[
    str | None, typer.Option("--ignore", metavar="N,N", help="Values of mask pixels that count nowhere.")
]
ObjectKind = Annotated[
    str, typer.Option("--objects", help="A sample is a mask (whole), or each of its components or labels.")
]
SmallestObject = Annotated[int, typer.Option(min=1, help="Pixels of the smallest component or label that is a sample.")]


WindowText = Annotated[
    str | None,
    typer.Option("--window", metavar="LEVEL,WIDTH", help="Brightness of scans, or abdomen, lung, bone, brain."),
]


def reading_rules(
    labels: str | None, ignore: str | None, objects: str, smallest: int, window: str | None = None
) -> ReadingRules:
    """Return what the options say about masks and scans.

    Raises:
        MedcoreError: One of them is none of its choices.
    """
    if objects not in get_args(Objects):
        raise ConfigError(f"--objects {objects}: choose one of {', '.join(get_args(Objects))}")
    chosen: Labels = "any" if labels == "any" else None if labels is None else _label_numbers("--labels", labels)
    ignored = _label_numbers("--ignore", ignore) if ignore else ()
    return ReadingRules(chosen, ignored, cast(Objects, objects), smallest, _window(window))


def _window(text: str | None) -> Window:
    try:
        level, comma, width = (text or "").partition(",")
        window: Window = (float(level), float(width)) if comma else text
        check_window(window)
    except ValueError:
        raise ConfigError(
            f"--window '{text}': give LEVEL,WIDTH with a width above 0, or one of {', '.join(PRESETS)}"
        ) from None
    return window


def _label_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part, 0) for part in text.split(","))
    except ValueError:
        also = "any, or " if option == "--labels" else ""
        raise ConfigError(f"{option} '{text}': give {also}whole numbers such as 1,2 or 0xff0000") from None


class Frame(Enum):
    """Where `medcore evaluate` compares masks."""

    ORIGINAL = "original"
    MODEL = "model"
    BOTH = "both"


class By(Enum):
    """Groups of whole cases for which `medcore evaluate` gives means."""

    MODALITY = "modality"


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
