"""`study.json`: a study's objectives, the reference point of its hypervolume, and the dense model's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from medcore.errors import MedcoreError
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import Architecture, ModelSpec
from medcore.models.vit.arch import SamVit
from results.stats.objectives import Objective, names_of, read_objectives
from results.store.files import LARGEST, is_finite, read_json, write_json
from results.store.latency import dense_columns, latest, read_latency

FILE = "study.json"
#: Numbers of a file, which may come from anywhere: whole ones of 64 bits, and finite ones.
Whole = Annotated[StrictInt, Field(ge=-LARGEST, le=LARGEST)]
Finite = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Figures = dict[str, Whole | Finite | None]
Width = Annotated[StrictInt, Field(gt=0, le=LARGEST)]


class FamilyTitle(BaseModel):
    """A family of prunable groups.

    Attributes:
        name: Its column in rows.
        title: What people read.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    title: str


class StudyInfo(BaseModel):
    """What `study.json` holds; fields that this version does not know are kept.

    Attributes:
        name: Of the study.
        objectives: Columns that are optimised, in the study's order.
        reference: The hypervolume's reference point, natural values by objective.
        dense: Metrics of the unpruned model.
        widths: Groups of the dense model by family: of every site, or one number a site.
        families: Names and titles; by default `earlier_families`.
        start: Groups of the model that the study prunes, by family and site, if it was pruned already. `dense` then has
            the metrics of this model, and `widths` stay those of the dense one.
        datasets: Names of the data sets that were searched on.
        git: Revision of the code that began the study.
        machine: Where it began.
        precision: Of the adapted checkpoint's numbers on disk, which exports keep by default.
        side: Pixels along the square of the unpruned model; None for a study of an earlier version, whose trials all
            have it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str
    objectives: tuple[Objective, ...]
    reference: dict[str, Whole | Finite]
    dense: Figures
    widths: dict[str, Width | Annotated[list[Width], Field(min_length=1)]]
    families: tuple[FamilyTitle, ...] = ()
    start: dict[str, list[StrictInt]] | None = None
    datasets: list[str] = []
    git: str | None = None
    machine: Any = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    side: Width | None = None

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> tuple[Objective, ...]:
        if isinstance(value, Sequence) and all(isinstance(each, Objective) for each in value):
            return tuple(value)
        try:
            return read_objectives(value)
        except (KeyError, TypeError, MedcoreError) as error:
            reason = str(error) if isinstance(error, MedcoreError) else "an objective needs a name and a direction"
            raise ValueError(reason) from None

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        for what, names in (
            ("objectives", names_of(self.objectives)),
            ("families", [family.name for family in self.prunable()]),
        ):
            if len({*names}) < len(names):
                raise ValueError(f"field {what} names one twice")
        for field in ("reference", "dense"):
            values = getattr(self, field)
            if lacking := [name for name in names_of(self.objectives) if not is_finite(values.get(name))]:
                raise ValueError(f"field {field} holds no number for {', '.join(lacking)}")
        if lacking := [family.name for family in self.prunable() if family.name not in self.widths]:
            raise ValueError(f"field widths holds no number for {', '.join(lacking)}")
        return self

    def prunable(self) -> tuple[FamilyTitle, ...]:
        """Return the families that trials of the study prune."""
        return self.families or earlier_families()

    def share(self, family: str, kept: Sequence[int]) -> float:
        """Return the share of a family's groups that a budget keeps."""
        return float(np.mean(kept)) / float(np.mean(self.widths[family]))

    def start_share(self, family: str) -> float:
        """Return the share of a family's groups that the study's model has before it is pruned."""
        return 1.0 if self.start is None else self.share(family, self.start[family])

    def unpruned(self, arch: Architecture) -> Architecture:
        """Return the architecture of the study's unpruned model, given that of a trial, which may have another side."""
        return arch if self.side is None or self.side == arch.img_size else arch_at_side(arch, self.side)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that were given, as plain values."""
        return self.model_dump(mode="python", exclude_unset=True)


def structure_of(model: ModelSpec) -> dict[str, Any]:
    """Return the fields of a study that describe the structure of the model that it prunes."""
    arch = model.arch
    families = tuple(FamilyTitle(name=family.name, title=family.title) for family in arch.families)
    start = {} if model.is_dense else {"start": model.budget}
    return {"widths": ModelSpec.dense(arch).budget, "families": families, "side": arch.img_size, **start}


def earlier_families() -> tuple[FamilyTitle, ...]:
    """Return the families of studies that do not name theirs.

    Such studies pruned a ViT image encoder.
    """
    return tuple(FamilyTitle(name=family.name, title=family.title) for family in SamVit.encoder_families)


def study_info(fields: Mapping[str, Any], where: str = "study") -> StudyInfo:
    """Return a study's description from plain values.

    Raises:
        MedcoreError: A field is missing or wrong; the message names `where` and the field.
    """
    try:
        return StudyInfo.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field, own = ".".join(map(str, first["loc"])), first["type"] == "value_error"
        reason = str(first["ctx"]["error"]) if own else f"field {field or 'name'} is missing or wrong"
        raise MedcoreError(f"{where}: {reason}; a search writes this file") from None


def write_study(study: Path, info: StudyInfo) -> None:
    """Write `study.json`."""
    write_json(study / FILE, info.to_dict())


def read_study_info(study: Path) -> StudyInfo:
    """Read `study.json`, with measured time and memory of the dense model.

    Raises:
        MedcoreError: The folder is no study, or the file lacks a field.
    """
    path = study / FILE
    if not path.is_file():
        raise MedcoreError(f"{study}: no study (study.json is missing); give the folder that a search wrote")
    info = study_info(read_json(path), str(path))
    return info.model_copy(update={"dense": info.dense | dense_columns(latest(read_latency(study)))})
