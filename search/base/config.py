"""One typed YAML file describes a study. Unknown keys are errors; the resolved file is saved with every study.

Paths may hold environment variables (`$DATA/kvasir`) and are relative to the current folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from medcore.errors import MedcoreError
from medcore.scoring.criteria import CRITERIA, ScoringWeights
from medcore.training.orders import PHASES
from search.base.dimensions import (
    Choices,
    Dimension,
    Exponent,
    Range,
    Section,
    Share,
    YesNo,
    _numbers,
    _one_of,
    _whole,
    values_of,
)


def _expand(value: Any) -> Any:
    return Path(os.path.expandvars(value)).expanduser() if isinstance(value, str) else value


def _expand_words(value: Any) -> Any:
    return os.path.expandvars(value) if isinstance(value, str) else value


def _no_variable_left(path: Path) -> Path:
    if "$" in str(path):
        raise ValueError(f"environment variable in '{path}' is not set")
    return path


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PathField = Annotated[Path, BeforeValidator(_expand), AfterValidator(_no_variable_left)]


class ModelConfig(Section):
    """The checkpoint pair: `base` is the general model (θS), `adapted` the medical one (θM)."""

    architecture: Annotated[str, BeforeValidator(_expand_words)] | None = Field(
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
    part_size: int = Field(32, ge=1, description="images a part of the scoring job; a search runs parts on Ray")
    alpha_heads: float | None = Field(None, ge=0, le=1, description="null: adaptive, one per block")
    alpha_channels: float | None = Field(None, ge=0, le=1)
    beta: float = Field(0.3, ge=0, allow_inf_nan=False)
    criterion: Literal["medcore", "fisher", "michel", "activation", "magnitude", "random"] = "medcore"
    blend: float = Field(1.0, ge=0, le=1, description="share of `criterion` beside MedCore's own score")
    mixture: dict[str, float] | None = Field(None, description="weight per data set; null: equal")
    boundary_weight: float = Field(3.0, ge=0)
    tau: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _weight_is_a_node(self) -> ScoringConfig:
        if self.boundary_weight not in self.nodes:
            raise ValueError(f"boundary_weight {self.boundary_weight:g} must be one of nodes {list(self.nodes)}")
        return self


class RecoveryConfig(Section):
    """Recovery after the pruning phases (method §6)."""

    steps: int = Field(200, ge=0, description="optimiser steps over all phases and rounds")
    head_share: float = Field(0.5, ge=0, le=1, description="share of the steps spent after head pruning")
    batch_size: int = Field(4, ge=1)
    lr: float = Field(1e-5, gt=0)
    lambdas: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (1.0, 0.5, 2.0, 0.5)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    autocast: bool = Field(False, description="bfloat16 autocast")
    save_every: int = Field(
        50,
        ge=0,
        description="steps after which a trial's state is saved (at most 5 % of the time); 0: after phases only",
    )


class BudgetConfig(Section):
    """How much goes, and where. Sparsities are cumulative over stages and count over all blocks."""

    allocator: Literal["rule", "uniform", "to_target"] = "rule"
    head_sparsity: float = Field(0.5, ge=0, le=1)
    mlp_sparsity: float = Field(0.7, ge=0, le=1)
    protected: tuple[int, ...] = ()
    min_heads: int | None = Field(None, ge=0, description="kept in every block; default: rule 1, others 0")
    min_channel_share: float | None = Field(
        None, ge=0, le=1, description="kept in every block; default: rule 5 %, others 0"
    )
    fraction: float = Field(0.5, gt=0, le=1, description="uniform, to_target: share of the dense encoder's FLOPs kept")
    cost: Literal["flops", "flops_paper"] = "flops_paper"
    channel_multiple: int = Field(1, ge=1, description="uniform, to_target: channel counts are multiples of this")


class ScheduleConfig(Section):
    """When what is cut (method §6)."""

    order: Literal["heads_first", "mlp_first", "together"] = "heads_first"
    rounds: int = Field(1, ge=1, description="equal steps towards each budget, each with its own recovery")
    rescore: bool = Field(False, description="rank by fresh scores in every round but the first")
    rescore_per_dataset: int = Field(16, ge=1, description="calibration images of each data set for fresh scores")
    stages: tuple[BudgetConfig, ...] = Field((), description="budgets of `medcore prune` before the last, `budget`")


class SpaceConfig(Section):
    """What a trial samples. A plain value fixes a dimension; `null` takes it from the `schedule` section.

    Budgets: `fraction` of the FLOPs is met exactly (to one group) by scaling per-block preferences. In powers of two,
    the preference of block b is ±lean/2 (heads + / channels −) + slope·depth + bonus if b is global +
    follow·(log-sensitivity of b, scaled to [−1, 1]) + spread·residual_b, with depth running from −1 to 1 and one free
    residual in [−1, 1] per block and family.
    """

    fraction: Annotated[Dimension, _numbers(1e-6, 1)] = Range(low=0.05, high=1.0, log=True)
    protected_last: Annotated[Dimension, _whole(0)] = 0.0
    lean: Exponent = Range(low=-2, high=2)
    slope_heads: Exponent = Range(low=-1, high=1)
    slope_channels: Exponent = Range(low=-1, high=1)
    global_bonus: Exponent = Range(low=-1, high=1)
    follow_heads: Exponent = Range(low=-1, high=2)
    follow_channels: Exponent = Range(low=-1, high=2)
    spread: Annotated[Dimension, _numbers(0, 8)] = Range(low=0, high=1)
    criterion: Annotated[Dimension, _one_of(*CRITERIA)] = "medcore"
    blend: Share = 1.0
    alpha_heads: Share = Range(low=0, high=1)
    alpha_channels: Share = Range(low=0, high=1)
    adaptive_alpha: YesNo = Choices(choices=("yes", "no"))
    beta: Annotated[Dimension, _numbers(0)] = Range(low=0, high=1)
    boundary_weight: Annotated[Dimension, _numbers(0)] = Choices(choices=(0.0, 1.0, 3.0, 10.0))
    mixture: Annotated[Dimension, _numbers(1e-9)] = Range(low=0.05, high=1, log=True)
    tau: Annotated[Dimension, _numbers(-4, 4)] = 0.0
    order: Annotated[Dimension, _one_of(*PHASES)] | None = None
    rounds: Annotated[Dimension, _whole(1)] | None = None
    rescore: YesNo | None = None
    rescore_per_dataset: Annotated[Dimension, _whole(1)] | None = None
    lr: Annotated[Dimension, _numbers(1e-12, 10)] = Range(low=1e-5, high=1e-3, log=True)
    head_share: Share = Range(low=0.1, high=0.9)


class ObjectiveConfig(Section):
    name: str
    direction: Literal["min", "max"]


Fraction = Annotated[float, Field(gt=0, le=1)]


class WarmStarts(Section):
    """Trials that run first: the dense model, and the rule and uniform budgets at these FLOPs fractions."""

    dense: bool = True
    uniform: tuple[Fraction, ...] = (0.5, 0.3, 0.15)
    rule: tuple[Fraction, ...] = (0.5, 0.3, 0.15)


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
    gpus_per_trial: NotNegative | Literal["auto"] = Field(
        "auto",
        description="share of a GPU, where there is one, at most all of it; auto: from a measured dry run, of the "
        "smallest GPU of all nodes",
    )
    memory_per_trial: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto",
        description="bytes that Ray keeps free for a trial; auto: from a measured dry run, where memory is short",
    )
    leverage_images: int = Field(16, ge=0, description="calibration images for a trial's leverage; 0: not computed")
    concurrency: int | None = Field(None, ge=1, description="trials at once; default: what the resources allow")
    retries: int = Field(3, ge=0, description="times a trial is begun again after its worker process has died")

    @model_validator(mode="after")
    def _sound(self) -> SearchConfig:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives: {', '.join(names)} names one twice")
        if self.gpu_share > 1:
            raise ValueError(
                f"gpus_per_trial {self.gpu_share:g}: a trial runs on one GPU, so give at most 1 (of trainings, "
                "finetune.workers and adapt.workers take several)"
            )
        return self

    @property
    def gpu_share(self) -> float:
        """Of jobs that are not measured, such as parts of the scoring."""
        return 0.25 if self.gpus_per_trial == "auto" else self.gpus_per_trial

    @property
    def memory_bytes(self) -> int:
        """What is asked for without a measurement; 0: nothing."""
        return self.memory_per_trial if isinstance(self.memory_per_trial, int) else 0


class TrackingConfig(Section):
    uri: str | None = Field(
        None,
        description="MLflow server (login: MLFLOW_TRACKING_USERNAME and _PASSWORD); default: where the study went "
        "before, else a SQLite file in the study folder",
    )
    experiment: str = "medcore"


Workers = Annotated[
    int, Field(ge=1, description="processes that share out every batch, a GPU each (or a CPU core); 1: no Ray")
]


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
    workers: Workers = 1


class FinetuneConfig(Section):
    """`medcore export --finetune`: full-length training of the chosen model (method §6), ended by the search part."""

    train_split: str = "train"
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(4, ge=1)
    lr: float = Field(1e-4, gt=0, allow_inf_nan=False)
    weight_decay: NotNegative = 0.01
    patience: int = Field(5, ge=0, description="epochs without a better loss on the search split; 0: never end early")
    horizontal_flip: bool = Field(False, description="mirror half of the images")
    vertical_flip: bool = False
    autocast: bool = Field(False, description="bfloat16 autocast; figures are always measured in float32")
    workers: Workers = 1


class Config(Section):
    """The whole file."""

    study: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output: PathField = Field(Path("runs"), description="studies are folders in here")
    seed: int = Field(0, ge=0)
    model: ModelConfig
    data: DataConfig
    scoring: ScoringConfig = ScoringConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    budget: BudgetConfig = BudgetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    search: SearchConfig = SearchConfig()
    tracking: TrackingConfig = TrackingConfig()
    adapt: AdaptConfig = AdaptConfig()
    finetune: FinetuneConfig = FinetuneConfig()

    @model_validator(mode="after")
    def _sampled_weights_are_nodes(self) -> Config:
        dimension = self.search.space.boundary_weight
        sampled = values_of(dimension)
        if isinstance(dimension, Range) or not set(sampled) <= set(self.scoring.nodes):
            raise ValueError(
                f"search.trials.space.boundary_weight must be among scoring.nodes {list(self.scoring.nodes)}"
            )
        return self

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.output / self.study

    def absolute(self) -> Config:
        """The same with absolute paths, for worker processes that may start in another folder."""
        changes: dict[str, Any] = {"base": self.model.base.absolute(), "adapted": self.model.adapted.absolute()}
        if self.model.architecture is not None and Path(self.model.architecture).suffix == ".json":
            changes["architecture"] = str(Path(self.model.architecture).absolute())
        model = self.model.model_copy(update=changes)
        data = self.data.model_copy(update={"folders": tuple(folder.absolute() for folder in self.data.folders)})
        return self.model_copy(update={"output": self.output.absolute(), "model": model, "data": data})

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


def saved_config(values: Mapping[str, Any], where: str, *sections: str) -> Config:
    """What a saved configuration says of models and data, and in `sections`; the rest is as by default.

    So that a study of another version, whose other sections have other keys, can still be used. Raises `MedcoreError`
    as `validate` does.
    """
    names = ("study", "output", "seed", "model", "data", *sections)
    return validate({name: values[name] for name in names if name in values}, where)


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {reason}" if key else reason


def scoring_weights(scoring: ScoringConfig, seed: int = 0) -> ScoringWeights:
    """The configuration's own scoring weights, as opposed to sampled ones."""
    return ScoringWeights(**scoring.model_dump(exclude={"nodes", "part_size"}), seed=seed)
