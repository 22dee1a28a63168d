"""The files before the first trial."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medcore.errors import ConfigError, MedcoreError
from medcore.quality.time_table import write_time_table
from search.base.config import Config, load_config
from search.commands import open_study
from search.study.inputs import load_split
from search.trials.ledger import IssuedTrial, write_issued
from tests.support.studies.study_files import own_polyps, write_tiny_study
from tests.support.time_tables import TABLE


def test_which_weights_stay_may_change_when_a_study_is_resumed(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path))
    assert config.search.keep == "all"
    open_study.open_study(config, resume=False)
    write_issued(config.folder, IssuedTrial("t0000", 0, 1, "dense", {}))
    slim = config.model_copy(update={"search": config.search.model_copy(update={"keep": "front"})})
    open_study.open_study(slim, resume=True)


@pytest.mark.parametrize("value", [float("nan"), None])
def test_an_objective_must_be_a_number_for_the_dense_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float | None
) -> None:
    config = load_config(write_tiny_study(tmp_path))
    dense: dict[str, Any] = {objective.name: 1.0 for objective in config.search.objectives}
    name = config.search.objectives[-1].name
    monkeypatch.setattr(open_study, "dense_metrics", lambda *_, **__: dense | {name: value})
    images: Any = SimpleNamespace(truths=[], datasets=[])
    with pytest.raises(MedcoreError, match=f"objective {name} is no number for the dense model") as caught:
        open_study.describe(config, images)
    assert "\n" not in str(caught.value)


def begun(folder: Path, **sections: Any) -> Config:
    """A study that has a trial, with its inputs in the same folder."""
    folder.mkdir()
    config = load_config(write_tiny_study(folder, **sections))
    own_polyps(folder)
    open_study.open_study(config, resume=False)
    open_study.keep_images(config, {"search": images_of(config)})
    write_issued(config.folder, IssuedTrial("t0000", 0, 1, "dense", {}))
    return config


def test_other_settings_are_refused_and_those_of_the_study_are_at_hand(tmp_path: Path) -> None:
    """As where a later version has other defaults than the one that began the study."""
    config = begun(tmp_path / "one", recovery={"steps": 2, "terms": {}})
    other = config.model_copy(update={"recovery": config.recovery.model_copy(update={"terms": {"lomix": 6.0}})})
    with pytest.raises(ConfigError, match=r"changed in recovery\.terms\.lomix; .* --resume\), or start") as caught:
        open_study.open_study(other, resume=True)
    command = re.search(r"medcore search (\S+) --resume", str(caught.value))
    assert command is not None
    open_study.open_study(load_config(Path(command[1])), resume=True)


def images_of(config: Config) -> Any:
    return load_split(config.datasets, "val/search", 64)


def moved(config: Config, new: Path) -> Config:
    """Move a project; its configuration says only where things are now."""
    old = config.output.parent
    old.rename(new)
    text = (new / "tiny.yaml").read_text().replace(str(old), str(new))
    (new / "tiny.yaml").write_text(text)
    return load_config(new / "tiny.yaml")


def resumed(config: Config) -> None:
    open_study.open_study(config, resume=True)
    open_study.keep_images(config, {"search": images_of(config)})


def test_a_study_that_has_moved_goes_on(tmp_path: Path) -> None:
    config = moved(begun(tmp_path / "old"), tmp_path / "new")
    before = (config.folder / "inputs.json").read_bytes()
    resumed(config)
    assert load_config(config.folder / "config.yaml", follow=False) == config
    assert (config.folder / "inputs.json").read_bytes() == before
    config.folder.rename(config.output / "renamed")
    resumed(config.model_copy(update={"study": "renamed"}))


@pytest.mark.parametrize("name", ["base", "adapted"])
@pytest.mark.parametrize("place", ["same", "another"])
def test_a_model_with_other_content_is_refused(tmp_path: Path, name: str, place: str) -> None:
    config = begun(tmp_path / "old")
    if place == "another":
        config = moved(config, tmp_path / "new")
    before = (config.folder / "config.yaml").read_bytes()
    other = {"base": config.model.adapted, "adapted": config.model.base}[name]
    shutil.copyfile(other, getattr(config.model, name))
    with pytest.raises(MedcoreError, match=rf"cannot resume.*model\.{name} \(") as caught:
        open_study.open_study(config, resume=True)
    assert (f"{tmp_path}/old/{name}.safetensors -> {tmp_path}/new" in str(caught.value)) == (place == "another")
    assert (config.folder / "config.yaml").read_bytes() == before


def test_other_images_are_refused_with_their_numbers(tmp_path: Path) -> None:
    config = moved(begun(tmp_path / "old"), tmp_path / "new")
    images, before = images_of(config), (config.folder / "config.yaml").read_bytes()
    gone, changed = images.names[0], images.names[1]
    for kind in ("images", "masks"):
        (tmp_path / "new" / "polyps" / kind / f"{gone}.png").unlink()
    shutil.copyfile(
        tmp_path / "new" / "polyps" / "masks" / f"{images.names[2]}.png",
        tmp_path / "new" / "polyps" / "masks" / f"{changed}.png",
    )
    with pytest.raises(MedcoreError) as caught:
        resumed(config)
    message = str(caught.value)
    assert f"1 removed (polyps/{gone})" in message and f"1 with other content (polyps/{changed})" in message
    assert "added" not in message and str(tmp_path / "old" / "polyps") in message and "\n" not in message
    assert (config.folder / "config.yaml").read_bytes() == before
    other = dataclasses.replace(images, datasets=["kv"] * len(images))
    with pytest.raises(MedcoreError, match="'polyps' is called 'kv' now"):
        open_study.keep_images(config, {"search": other})
    order = images.subset([1, 0, *range(2, len(images))])
    with pytest.raises(MedcoreError, match="another order"):
        open_study.keep_images(config, {"search": order})


def test_a_table_of_a_budget_may_move_and_may_not_change(tmp_path: Path) -> None:
    write_time_table(tmp_path / "times.json", TABLE)
    config = begun(tmp_path / "old", budget={"cost": "time", "times": str(tmp_path / "times.json")})
    (tmp_path / "times.json").rename(tmp_path / "moved.json")
    there = config.model_copy(update={"budget": config.budget.model_copy(update={"times": tmp_path / "moved.json"})})
    resumed(there)
    (tmp_path / "moved.json").write_text((tmp_path / "moved.json").read_text() + " ")
    with pytest.raises(MedcoreError, match=r"budget\.times"):
        resumed(there)


def test_a_study_of_before_goes_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = begun(tmp_path / "old")
    (config.folder / "inputs.json").unlink()
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    config = moved(config, tmp_path / "new")
    data = config.data.model_copy(update={"folders": (tmp_path / "new" / "others",)})
    with pytest.raises(MedcoreError, match=r"data\.folders"):
        open_study.open_study(config.model_copy(update={"data": data}), resume=True)
    resumed(config)
    assert "counts as the same" in caplog.text and "count as the same" in caplog.text
    assert json.loads((config.folder / "inputs.json").read_text())["images"]
    # if the old place is still there, contents are compared
    (tmp_path / "copy").rename(tmp_path / "old")
    twin = load_config(tmp_path / "old" / "tiny.yaml")
    shutil.copyfile(twin.model.base, tmp_path / "other.safetensors")
    other = twin.model_copy(update={"model": twin.model.model_copy(update={"adapted": tmp_path / "other.safetensors"})})
    with pytest.raises(MedcoreError, match=r"model\.adapted"):
        open_study.open_study(other, resume=True)
    (twin.folder / "inputs.json").write_text("[]")
    with pytest.raises(MedcoreError, match=r"inputs\.json: corrupt"):
        open_study.open_study(twin, resume=True)
