"""The configuration of a study: one typed YAML file, resolved and saved with every study.

Unknown keys are errors. Paths may hold environment variables (`$DATA/kvasir`) and are relative to the current folder.
Only `search.commands` reads a whole `Config`; everything else gets a section of `search.base.sections`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from medcore.errors import ConfigError, one_line
from medcore.models.spec import DECODER
from medcore.training.orders import TOGETHER
from medcore.training.plans.registry import PLANS
from search.base.sections.dimensions import Fixed, Range
from search.base.sections.families import file_keys
from search.base.sections.fields import PathField, Section
from search.base.sections.inputs import DataConfig, Datasets, ModelConfig
from search.base.sections.pruning import BudgetConfig, RecoveryConfig, ScheduleConfig
from search.base.sections.scoring import ScoringConfig
from search.base.sections.search import SearchConfig
from search.base.sections.tracking import TrackingConfig
from search.base.sections.training import AdaptConfig, FinetuneConfig
from search.base.sections.yaml_file import read_yaml, write_yaml

#: What a value must be, by pydantic's name of the mistake.
_SHAPES = {
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dataclass_type", "dict_type"), "expected keys with values"
    ),
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
    "path_type": "expected a path",
}


class Config(Section):
    """The whole file."""

    study: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the study")
    output: PathField = Field(Path("runs"), description="folder in which every study has a folder of its own")
    seed: int = Field(0, ge=0)
    model: ModelConfig
    data: DataConfig
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    recovery: RecoveryConfig = RecoveryConfig()
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    search: SearchConfig = Field(default_factory=SearchConfig)
    tracking: TrackingConfig = TrackingConfig()
    adapt: AdaptConfig = AdaptConfig()
    finetune: FinetuneConfig = FinetuneConfig()

    @model_validator(mode="after")
    def _sampled_weights_are_nodes(self) -> Config:
        dimension = self.search.space.boundary_weight
        if isinstance(dimension, Range) or not set(dimension.values) <= set(self.scoring.nodes):
            raise ValueError(f"search.space.boundary_weight must be among scoring.nodes {list(self.scoring.nodes)}")
        return self

    @model_validator(mode="after")
    def _plan_leaves_room(self) -> Config:
        space, plan = self.search.space, self.schedule.plan
        for name in ("order", "rescore"):
            if PLANS[plan].own_ranking and getattr(space, name) is not None:
                raise ValueError(f"search.space.{name} means nothing to schedule.plan {plan}; leave it out")
        if not PLANS[plan].own_ranking:
            return self
        ranking = {name: getattr(space, name) for name in ("criterion", "blend", "adaptive_alpha", "tau")}
        ranking |= {f"alpha_{family}": dimension for family, dimension in space.alpha.items()}
        if sampled := [name for name, dimension in ranking.items() if not isinstance(dimension, Fixed)]:
            raise ValueError(
                f"search.space.{sampled[0]} would change nothing: schedule.plan {plan} ranks groups by their local "
                "output error; give it one value, or leave it out"
            )
        rounds = (self.schedule.rounds,) if space.rounds is None else space.rounds.values
        if min(map(int, rounds)) < 2:
            raise ValueError(f"schedule.plan {plan} needs two rounds or more; set schedule.rounds")
        if not self.recovery.steps:
            raise ValueError(f"schedule.plan {plan} follows the loss of a recovery, so recovery.steps must be above 0")
        return self

    @model_validator(mode="after")
    def _counts_what_can_be_pruned(self) -> Config:
        if DECODER in self.model.parts:
            return self
        # rows have these figures only if the decoder can be pruned, but a budget of the encoder may count whole calls
        objectives = [("search.objectives", each.name) for each in self.search.objectives]
        costs = [("search.cost", str(self.search.cost)), *(("budget", str(name)) for name in self.budget.shares)]
        counting = [pair for pair in objectives if pair[1].startswith("call_")]
        counting += [pair for pair in (*objectives, *costs) if pair[1].startswith("decoder_")]
        if counting:
            key, name = counting[0]
            raise ValueError(f"{key}: {name} counts the decoder, so model.parts must hold decoder")
        recovery = self.recovery
        if recovery.decoder_rate != RecoveryConfig().decoder_rate and not recovery.train_decoder:
            raise ValueError(
                "recovery.decoder_rate is of a decoder that trains, so model.parts must hold decoder, or "
                "recovery.train_decoder be true"
            )
        return self

    @model_validator(mode="after")
    def _asha_sees_trials(self) -> Config:
        orders, rounds = self.search.space.order, self.search.space.rounds
        one_order = (self.schedule.order,) if orders is None else orders.values
        one_round = (self.schedule.rounds,) if rounds is None else rounds.values
        follows = PLANS[self.schedule.plan].own_ranking
        if self.search.scheduler == "asha" and not follows and set(one_order) == {TOGETHER} and set(one_round) == {1}:
            raise ValueError(
                "search.scheduler asha sees trials between recoveries, and there is only one; use halving, or set "
                "schedule.order or schedule.rounds"
            )
        return self

    @property
    def averages(self) -> bool:
        """Whether finalists average weights. They cannot where each run ranks its groups itself."""
        return self.search.average_runs and not PLANS[self.schedule.plan].own_ranking

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.output / self.study

    @property
    def datasets(self) -> Datasets:
        """The study's images."""
        return Datasets(self.data, self.seed, self.output / "splits")

    def absolute(self) -> Config:
        """Return the same with absolute paths.

        Worker processes may start in another folder.
        """
        names = ("model", "data", "budget", "schedule", "search")
        sections = {name: getattr(self, name).absolute() for name in names}
        return self.model_copy(update={"output": self.output.absolute(), **sections})

    def to_yaml(self) -> str:
        """Return the text of a file that reads back as this configuration."""
        return write_yaml(self.model_dump(mode="json"))


def load_config(path: Path, *, follow: bool = True) -> Config:
    """Read and validate a configuration.

    Args:
        path: The file.
        follow: Whether the paths follow a study that has moved, if the file is the copy in its folder.

    Raises:
        MedcoreError: One line that names every faulty key with its reason.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections (study, model, data, …)")
    written = any((path.parent / name).is_file() for name in ("study.json", "inputs.json"))
    if follow and path.name == "config.yaml" and written:
        values = at_home(values, path.parent)
    return validate(values, str(path))


def validate(values: dict[str, Any], where: str) -> Config:
    """Return the configuration of plain values.

    Raises:
        MedcoreError: One line that begins with `where` and names every faulty key.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(map(_explain, _causes(error.errors())))}") from None


def saved_config(values: Mapping[str, Any], where: str, *sections: str) -> Config:
    """Return the models, data and `sections` of a saved configuration.

    The rest has default values.

    A study of another version stays usable this way, although its other sections have other keys.

    Raises:
        MedcoreError: As `validate` does.
    """
    names = ("study", "output", "seed", "model", "data", *sections)
    return validate({name: values[name] for name in names if name in values}, where)


def at_home(values: Mapping[str, Any], study: Path) -> dict[str, Any]:
    """Return a study's saved configuration for the place where the study is now.

    Its `output` and `study` name that place. Any other path in it that leads nowhere is replaced by the one at the same
    place relative to the study, if there is something: checkpoints and images mostly move together with the study.

    Args:
        study: The study's folder.
        values: `config.yaml` as plain values, possibly of an older version.
    """
    found, here = deepcopy(dict(values)), study.resolve()
    output, name = values.get("output"), values.get("study")
    if not isinstance(output, str) or not isinstance(name, str) or not Path(output).is_absolute():
        return found  # no search has written this
    was = Path(output) / name
    if was == here or _leads_to(was, here):
        return found
    found["output"], found["study"] = str(here.parent), here.name
    for section, key in _places(found):
        path = section[key]
        if isinstance(path, str) and not _exists(Path(path)):
            near = Path(os.path.normpath(here / os.path.relpath(path, was)))
            section[key] = str(near) if _exists(near) else path
    return found


def _leads_to(path: Path, place: Path) -> bool:
    """Tell whether a path, which may be any text, is a name of a place."""
    try:
        return path.resolve() == place
    except (OSError, ValueError, RuntimeError):
        return False


def _exists(path: Path) -> bool:
    """Tell whether there is something at a path, which may be any text."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _places(values: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each list or mapping that holds a path, with the path's position."""
    model, data = values.get("model"), values.get("data")
    if isinstance(model, dict):
        yield from ((model, key) for key in ("base", "adapted") if key in model)
        if str(model.get("architecture")).endswith(".json"):
            yield model, "architecture"
    folders = data.get("folders") if isinstance(data, dict) else None
    if isinstance(folders, list):
        yield from ((folders, index) for index in range(len(folders)))
    schedule = values.get("schedule")
    stages = schedule.get("stages") if isinstance(schedule, dict) else None
    for section in (values.get("budget"), values.get("search"), *(stages if isinstance(stages, list) else ())):
        if isinstance(section, dict) and section.get("times") is not None:
            yield section, "times"


def override(config: Config, *, trials: int | None, name: str | None, tracking_uri: str | None) -> Config:
    """Return the configuration with the values that are not None, validated again.

    Raises:
        MedcoreError: A value is not valid.
    """
    values = config.model_dump()
    if trials is not None:
        values["search"]["trials"] = trials
    if name is not None:
        values["study"] = name
    if tracking_uri is not None:
        values["tracking"]["uri"] = tracking_uri
    return validate(values, "command line")


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Return the problems without those that only follow from others.

    A list whose entries are wrong also counts as too short.
    """
    places = [problem["loc"] for problem in problems]

    def follows(problem: Any) -> bool:
        place = problem["loc"]
        below = any(len(other) > len(place) and other[: len(place)] == place for other in places)
        return problem["type"] == "too_short" and below

    return [problem for problem in problems if not follows(problem)]


def _known_keys(section: Sequence[str]) -> list[str]:
    """Return the keys of a section; none if it is no section.

    `section` holds the keys that lead to it from the top.
    """
    kind: Any = Config
    for key in section:
        field = kind.model_fields.get(key) if isinstance(kind, type) and issubclass(kind, Section) else None
        kind = None if field is None else field.annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Section) else []


def _explain(problem: Any) -> str:
    # parts in angle brackets are kinds of a dimension, not keys
    key = one_line(".".join(file_keys([str(part) for part in problem["loc"] if not str(part).startswith("<")])), 200)
    # Python's names of types mean nothing to a person who writes YAML
    reason = one_line(_SHAPES.get(problem["type"], problem["msg"].removeprefix("Value error, ")), 500)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key.rpartition(".")[2], _known_keys(key.split(".")[:-1]), n=1)
        return f"unknown key '{key}'" + (f", did you mean '{near[0]}'?" if near else "")
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    return f"{key}: {reason}" if key else reason
