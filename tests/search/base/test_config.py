"""The configuration file: typed, strict, one line per mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medcore.errors import MedcoreError
from search.base.config import Config, load_config
from search.base.dimensions import Range

MINIMAL = {
    "study": "s",
    "model": {"base": "a.pth", "adapted": "b.pth"},
    "data": {"folders": ["data"]},
}
CONFIGS = Path(__file__).resolve().parents[3] / "search" / "configs"


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_resolved_file_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert load_config(write(tmp_path, config.to_yaml())) == config
    assert isinstance(config.search.space.fraction, Range)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serach": {}}, "unknown key 'serach'"),
        ({"search": {"trails": 3}}, "unknown key 'search.trails'"),
        ({"search": {"trials": 0}}, "search.trials"),
        ({"model": {"base": "a"}}, "key 'model.adapted' is missing"),
        ({"data": {"folders": []}}, "data.folders"),
        ({"scoring": {"boundary_weight": 2}}, "must be one of nodes"),
        ({"model": {"base": "$NO_SUCH_VARIABLE/a", "adapted": "b"}}, "NO_SUCH_VARIABLE"),
        ({"study": "../up"}, "study"),
        ({"search": {"space": {"lr": {"low": 2, "high": 1}}}}, "must be below high"),
        ({"search": {"gpus_per_trial": 2}}, "search: gpus_per_trial 2: a trial runs on one GPU, so give at most 1"),
        ({"finetune": {"workers": 0}}, "finetune.workers"),
    ],
)
def test_mistake_is_one_line_that_names_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path, MINIMAL | change)
    with pytest.raises(MedcoreError) as caught:
        load_config(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", ""])
def test_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(MedcoreError, match=r"config\.yaml"):
        load_config(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="no such configuration file"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDCORE_SHARED", "MEDCORE_DEMO", "SAM_CHECKPOINT", "MEDSAM_CHECKPOINT", "POLYPS"):
        monkeypatch.setenv(name, "/somewhere")
    assert isinstance(load_config(path), Config)
