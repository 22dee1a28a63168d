"""One typed YAML file describes a study. Unknown keys are errors; the resolved file is saved with every study.

Paths may hold environment variables (`$DATA/kvasir`) and are relative to the current folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medcore.errors import MedcoreError


def _expand(value: Any) -> Any:
    return Path(os.path.expandvars(value)).expanduser() if isinstance(value, str) else value


def _no_variable_left(path: Path) -> Path:
    if "$" in str(path):
        raise ValueError(f"environment variable in '{path}' is not set")
    return path


PathField = Annotated[Path, BeforeValidator(_expand), AfterValidator(_no_variable_left)]


class Section(BaseModel):
    """Every section refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The checkpoint pair: `base` is the general model (θS), `adapted` the medical one (θM)."""

    architecture: str | None = Field(
        None, description="vit_b, vit_l, vit_h or a JSON file; default: JSON beside the checkpoint"
    )
    base: PathField
    adapted: PathField


class DataConfig(Section):
    folders: tuple[PathField, ...] = Field(min_length=1, description="each with images/ and masks/")
    calibration_split: str = "train"
    calibration_per_dataset: int | None = Field(128, ge=1)
    search_split: str = "val/search"
    search_per_dataset: int | None = Field(None, ge=1)
    report_split: str = "val/report"


class ScoringConfig(Section):
    """Scoring weights of `medcore prune` and of the warm starts (method §4, §5 reference values)."""

    nodes: tuple[float, ...] = Field(
        (0.0, 1.0, 3.0, 10.0), description="boundary weights at which reset scores are kept"
    )
    part_size: int = Field(32, ge=1, description="images a part of the scoring job; parts run on Ray's workers")
    alpha_heads: float | None = Field(None, ge=0, le=1, description="null: adaptive, one per block")
    alpha_channels: float | None = Field(None, ge=0, le=1)
    beta: float = Field(0.3, ge=0)
    mixture: dict[str, float] | None = Field(None, description="weight per data set; null: equal")
    boundary_weight: float = Field(3.0, ge=0)
    tau: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _weight_is_a_node(self) -> ScoringConfig:
        if self.boundary_weight not in self.nodes:
            raise ValueError(f"boundary_weight {self.boundary_weight:g} must be one of nodes {list(self.nodes)}")
        return self


class RecoveryConfig(Section):
    """Recovery after each pruning phase (method §6)."""

    steps: int = Field(200, ge=0, description="optimiser steps over both phases")
    head_share: float = Field(0.5, ge=0, le=1, description="share of the steps spent after head pruning")
    batch_size: int = Field(4, ge=1)
    lr: float = Field(1e-5, gt=0)
    lambdas: tuple[float, float, float, float] = (1.0, 0.5, 2.0, 0.5)
    order: Literal["heads_first", "mlp_first", "together"] = "heads_first"
    lr_schedule: Literal["constant", "cosine"] = "constant"
    autocast: bool = Field(False, description="bfloat16 autocast")


class BudgetConfig(Section):
    """What `medcore prune` removes."""

    allocator: Literal["rule", "uniform", "to_target"] = "rule"
    head_sparsity: float = Field(0.5, ge=0, le=1)
    mlp_sparsity: float = Field(0.7, ge=0, le=1)
    protected: tuple[int, ...] = ()
    fraction: float = Field(0.5, gt=0, le=1, description="to_target: share of the dense encoder's FLOPs that is kept")
    cost: Literal["flops", "flops_paper"] = "flops_paper"


class Range(Section):
    """A numeric search dimension."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log range needs low > 0")
        return self


class Choices(Section):
    """A categorical search dimension."""

    choices: tuple[float | str, ...] = Field(min_length=1)


Dimension = float | Range | Choices


class SpaceConfig(Section):
    """What a trial samples. A plain number fixes a dimension.

    Budgets: `fraction` of the FLOPs is met exactly (to one group) by scaling per-block preferences. In powers of two,
    the preference of block b is ±lean/2 (heads + / channels −) + slope·depth + bonus if b is global +
    spread·residual_b, with depth running from −1 to 1 and one free residual in [−1, 1] per block and family.
    """

    fraction: Dimension = Range(low=0.05, high=1.0, log=True)
    lean: Dimension = Range(low=-2, high=2)
    slope_heads: Dimension = Range(low=-1, high=1)
    slope_channels: Dimension = Range(low=-1, high=1)
    global_bonus: Dimension = Range(low=-1, high=1)
    spread: Dimension = Range(low=0, high=1.5)
    alpha_heads: Dimension = Range(low=0, high=1)
    alpha_channels: Dimension = Range(low=0, high=1)
    adaptive_alpha: Dimension = Choices(choices=("yes", "no"))
    beta: Dimension = Range(low=0, high=1)
    boundary_weight: Dimension = Choices(choices=(0.0, 1.0, 3.0, 10.0))
    mixture: Dimension = Range(low=0.05, high=1, log=True)
    tau: Dimension = 0.0
    lr: Dimension = Range(low=1e-5, high=1e-3, log=True)
    head_share: Dimension = Range(low=0.1, high=0.9)


class ObjectiveConfig(Section):
    name: str
    direction: Literal["min", "max"]


class WarmStarts(Section):
    """Trials that run first: the dense model, and the rule and uniform budgets at these FLOPs fractions."""

    dense: bool = True
    uniform: tuple[float, ...] = (0.5, 0.3, 0.15)
    rule: tuple[float, ...] = (0.5, 0.3, 0.15)


class SearchConfig(Section):
    trials: int = Field(48, ge=1)
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    objectives: tuple[ObjectiveConfig, ...] = Field(
        (
            ObjectiveConfig(name="flops", direction="min"),
            ObjectiveConfig(name="boundary_f1", direction="max"),
            ObjectiveConfig(name="hd95", direction="min"),
        ),
        min_length=1,
    )
    cost: Literal["flops", "flops_paper"] = Field("flops_paper", description="what `fraction` is a fraction of")
    space: SpaceConfig = SpaceConfig()
    warm_starts: WarmStarts = WarmStarts()
    cpus_per_trial: int = Field(1, ge=1)
    gpus_per_trial: float = Field(0.25, ge=0, description="share of a GPU, where there is one")
    concurrency: int | None = Field(None, ge=1, description="trials at once; default: what the resources allow")


class TrackingConfig(Section):
    uri: str | None = Field(None, description="MLflow server; default: a SQLite file in the study folder")
    experiment: str = "medcore"


class AdaptConfig(Section):
    """`medcore adapt`: fine-tune the general checkpoint on the data sets (method §6, fine-tuning)."""

    out: PathField = Path("runs/adapted.safetensors")
    train_split: str = "train"
    val_split: str = "val/search"
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-4, gt=0)
    patience: int = Field(5, ge=1)
    autocast: bool = False


class Config(Section):
    """The whole file."""

    study: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output: PathField = Field(Path("runs"), description="studies are folders in here")
    seed: int = 0
    model: ModelConfig
    data: DataConfig
    scoring: ScoringConfig = ScoringConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    tracking: TrackingConfig = TrackingConfig()
    adapt: AdaptConfig = AdaptConfig()

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.output / self.study

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path) -> Config:
    """Read and validate a configuration. Raises `MedcoreError`: one line with every faulty key and its reason."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise MedcoreError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MedcoreError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise MedcoreError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise MedcoreError(f"{path}: expected a mapping of sections (study, model, data, …)")
    return validate(values, str(path))


def validate(values: dict[str, Any], where: str) -> Config:
    """Typed configuration from plain values; raises `MedcoreError` naming `where` and every faulty key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise MedcoreError(f"{where}: {'; '.join(_explain(problem) for problem in error.errors())}") from None


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
