"""Sections `model` and `data`: the checkpoints of a study and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, StrictInt, field_validator, model_serializer, model_validator

from medcore.data.formats.windows import PRESETS, ReadingRules, Window, check_window
from medcore.data.mask_rules import Objects
from medcore.models.spec import DECODER, ENCODER, PARTS
from search.base.sections.fields import Expanded, PathField, Section, as_saved_before


class Changes(NamedTuple):
    """What is changed about both checkpoints after they are read.

    Attributes:
        parts: What can be pruned.
        drop: Outputs of the decoder to leave out.
        side: Side of the square; None for that of the checkpoints.
    """

    parts: tuple[str, ...]
    drop: tuple[str, ...]
    side: int | None


class ModelConfig(Section):
    """The pair of checkpoints."""

    architecture: Expanded | None = Field(
        None,
        description="such as vit_b or lite_medsam, or a JSON file; default: the JSON file next to the checkpoint",
    )
    parts: tuple[Literal["blocks", "encoder", "decoder"], ...] = Field(
        ("encoder",),
        min_length=1,
        description="what can be pruned and trains in recoveries: encoder, decoder, or both; blocks: whole blocks of a "
        "ViT, too",
    )
    drop: tuple[Literal["masks", "iou"], ...] = Field(
        (),
        description="outputs of the decoder to leave out from the start, which changes no mask: masks (all but the "
        "first, so that no prompt gets several), iou (predicted IoUs); parts must hold decoder",
    )
    base: PathField = Field(description="the general model (θS)")
    adapted: PathField = Field(description="the medical model (θM), which is pruned")
    side: StrictInt | None = Field(
        None,
        ge=1,
        description="pixels along the square that both models see, for fewer tokens; null: the checkpoints' own",
    )

    @property
    def changes(self) -> Changes:
        """Return what is changed about both checkpoints after they are read."""
        return Changes(self.parts, self.drop, self.side)

    def at_side(self, side: int) -> ModelConfig:
        """Return the same pair on a square of another side."""
        return self.model_copy(update={"side": side})

    @field_validator("parts")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a part twice")
        return tuple(part for part in PARTS if part in value)

    @model_validator(mode="after")
    def _drops_of_a_decoder(self) -> ModelConfig:
        if self.drop and DECODER not in self.parts:
            raise ValueError("drop leaves out outputs of the decoder, so parts must hold decoder")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what earlier versions do not know if it has its default."""
        values: dict[str, Any] = handler(self)
        later: dict[str, Any] = {"parts": (ENCODER,), "drop": (), "side": None}
        return {key: value for key, value in values.items() if key not in later or getattr(self, key) != later[key]}

    def absolute(self) -> ModelConfig:
        """Return the same checkpoints with absolute paths."""
        changes: dict[str, Any] = {"base": self.base.absolute(), "adapted": self.adapted.absolute()}
        if self.architecture is not None and Path(self.architecture).suffix == ".json":
            changes["architecture"] = str(Path(self.architecture).absolute())
        return self.model_copy(update=changes)


class DataConfig(Section):
    """The image folders, and which split of them serves which purpose."""

    folders: tuple[PathField, ...] = Field(min_length=1, description="folders of images and masks; see docs/data.md")
    calibration_split: str = Field("train", description="for scores and recovery")
    calibration_per_dataset: int | None = Field(
        128, ge=1, description="images per data set for scores; null: all of the split"
    )
    recovery_per_dataset: int | None = Field(
        None, ge=1, description="images per data set for recovery; null: all of the split"
    )
    low_masks: Literal["area", "nearest"] = Field(
        "area", description="masks at the decoder's resolution, for scores and recovery: at least half, or the nearest"
    )
    search_split: str = Field("val/search", description="for the metrics of the trials")
    search_per_dataset: int | None = Field(None, ge=1, description="images per data set; null: all")
    report_split: str = Field("val/report", description="held out: no search uses these images")
    labels: Literal["any"] | tuple[int, ...] | None = Field(
        None, description="values of the object in masks with more than two: any (all but 0), or a list"
    )
    ignore: tuple[int, ...] = Field((), description="values of pixels that count in no loss, metric or box")
    objects: Objects = Field(
        "whole", description="whole: a mask is one sample; components, labels: each part or each label of it is one"
    )
    window: Window | dict[str, Window] = Field(
        None,
        description=f"brightness of scans: [level, width], {', '.join(PRESETS)}, or one by data set; null: the file's "
        "window, else from the 0.5th to the 99.5th percentile of the values that are not 0",
    )
    smallest_object: int = Field(
        1, ge=1, description="components, labels: objects of fewer pixels are no samples, but background"
    )

    @model_validator(mode="before")
    @classmethod
    def _before_whole_splits(cls, values: Any) -> Any:
        """Recover on the calibration images, as studies did before recovery had images of its own."""
        keys = frozenset(
            {"folders", "calibration_split", "calibration_per_dataset", "search_split", "search_per_dataset"}
            | {"report_split"}
        )
        if not isinstance(values, Mapping):
            return values
        return as_saved_before(values, keys, {"recovery_per_dataset": values.get("calibration_per_dataset")})

    @field_validator("window")
    @classmethod
    def _known_window(cls, value: Window | dict[str, Window]) -> Window | dict[str, Window]:
        for window in value.values() if isinstance(value, dict) else (value,):
            check_window(window)
        return value

    @model_validator(mode="after")
    def _windows_of_folders(self) -> DataConfig:
        names = {folder.resolve().name for folder in self.folders}
        if isinstance(self.window, dict) and (others := self.window.keys() - names):
            raise ValueError(
                f"window: {', '.join(sorted(others))} is no data set; known are {', '.join(sorted(names))}"
            )
        return self

    @property
    def rules(self) -> ReadingRules:
        """How files are read: what is the object in a mask, and the windows of scans."""
        return ReadingRules(self.labels, self.ignore, self.objects, self.smallest_object, self.window)

    @classmethod
    def rules_of(cls, values: Mapping[str, Any]) -> ReadingRules:
        """Return the rules in a `data` section of any version, as plain values.

        Raises:
            ValueError: One of them is wrong.
        """
        keys = ("folders", "labels", "ignore", "objects", "smallest_object", "window")
        return cls.model_validate({key: values[key] for key in keys if key in values}).rules

    def absolute(self) -> DataConfig:
        """Return the same data with absolute paths."""
        return self.model_copy(update={"folders": tuple(folder.absolute() for folder in self.folders)})


@dataclass(frozen=True)
class Datasets:
    """The images of a study.

    Attributes:
        section: Folders, and the split for each purpose.
        seed: Draws the images where a purpose takes only some of a split.
        splits: Folder in which a study saves the splits that the data folders do not define themselves.
    """

    section: DataConfig
    seed: int
    splits: Path
