"""The configuration file: typed, strict, one line per mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medcore.errors import MedcoreError
from medcore.models.architectures import KINDS
from search.base.config import Config, load_config
from search.base.sections.dimensions import Range
from tests.support.toy.arch import Toy

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
        ({"budget": {"sparsity_heads": 2}}, "budget.sparsity_heads: "),
        ({"schedule": {"stages": [{"head_sparsity": 2}]}}, "schedule.stages.0.sparsity_heads: "),
        ({"search": {"space": {"slope_heads": {"low": 2, "high": 1}}}}, "search.space.slope_heads"),
        ({"budget": {"sparsity_heads": 0.9, "head_sparsity": 0.1}}, "head_sparsity and sparsity_heads are the same"),
        ({"budget": {"sparsity_heads": 0.9, "sparsity": {"heads": 0.1}}}, "sparsity_heads and sparsity.heads are"),
    ],
)
def test_mistake_is_one_line_that_names_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path, MINIMAL | change)
    with pytest.raises(MedcoreError) as caught:
        load_config(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_objective_is_one_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL | {"search": {"objectives": [{"name": "flops", "direction": "minn"}]}})
    with pytest.raises(MedcoreError, match=r"search\.objectives\.0") as caught:
        load_config(path)
    assert "at least" not in str(caught.value)
    path = write(tmp_path, MINIMAL | {"search": {"objectives": []}})
    with pytest.raises(MedcoreError, match=r"search\.objectives: .*at least 1"):
        load_config(path)


def test_words_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    old = {"head_sparsity": 0.5, "mlp_sparsity": 0.7, "min_heads": 2, "min_channel_share": 0.1, "channel_multiple": 8}
    new = {"sparsity_heads": 0.5, "sparsity_channels": 0.7, "min_count_heads": 2, "min_share_channels": 0.1}
    first, second = (load_config(write(tmp_path, MINIMAL | {"budget": each})) for each in (old, new | {"multiple": 8}))
    assert first == second


def test_a_study_can_be_resumed_without_a_plugin_that_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Toy.kind in KINDS.names()
    config = load_config(write(tmp_path, MINIMAL))
    used = load_config(write(tmp_path, MINIMAL | {"budget": {"sparsity_stem": 0.25}}))
    assert "stem" in config.budget.sparsity and yaml.safe_load(used.to_yaml())["budget"]["sparsity_stem"] == 0.25
    assert load_config(write(tmp_path, used.to_yaml())) == used
    text = config.to_yaml()
    monkeypatch.delitem(KINDS._entries, Toy.kind)
    plain = load_config(write(tmp_path, text))
    assert "stem" not in plain.budget.sparsity and plain.to_yaml() == text


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring": {"nodes": [0.0, 3.0, INF]}}, "scoring.nodes.2: "),
        ({"scoring": {"mixture": {"data": NAN}}}, "scoring.mixture.data: "),
        ({"scoring": {"mixture": {"data": -1.0}}}, "scoring.mixture.data: "),
        ({"scoring": {"tau": INF}}, "scoring.tau: "),
        ({"recovery": {"lr": INF}}, "recovery.lr: "),
        ({"adapt": {"lr": INF}}, "adapt.lr: "),
        ({"search": {"space": {"beta": NAN}}}, "search.space.beta: "),
        ({"output": "~nobody-here/x"}, "output: the home folder in '~nobody-here/x' is unknown"),
        ({"output": "a\0b"}, "output: 'a\\x00b' is no path"),
        ({"output": 5}, "output: expected a path"),
        ({"model": [1]}, "model: expected keys with values"),
        ({"data": {"folders": "kv"}}, "data.folders: expected a list"),
        ({"search": {"space": {"criterion": "a" * 30_000}}}, "search.space.criterion: 'aaa"),
        ({"budget": {"a\nmedcore: all is well": 1}}, "unknown key 'budget.a medcore: all is well'"),
        ({"budget": {"\x1b[2J" + "k" * 3000: 1}}, "unknown key 'budget.\\x1b[2Jkkk"),
    ],
)
def test_odd_values_are_one_short_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(MedcoreError) as caught:
        load_config(write(tmp_path, MINIMAL | change))
    text = str(caught.value)
    assert message in text and "\n" not in text and len(text) <= 1500 and "<class" not in text


@pytest.mark.parametrize("value", ["1e-4", "{choices: [1e-4, 3e-4]}", "{low: 1e-5, high: 1e-3, log: true}"])
def test_a_learning_rate_with_an_exponent_is_a_number(tmp_path: Path, value: str) -> None:
    text = yaml.safe_dump(MINIMAL) + f"recovery: {{lr: 1e-4}}\nsearch: {{space: {{lr: {value}}}}}\n"
    config = load_config(write(tmp_path, text))
    assert config.recovery.lr == 1e-4 and config.search.space.lr is not None
    assert all(isinstance(number, float) for number in config.search.space.lr.values)


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", ""])
def test_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(MedcoreError, match=r"config\.yaml"):
        load_config(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="no such configuration file"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lite = ("LITE_MEDSAM_CHECKPOINT", "LITE_MEDSAM_DATA")
    for name in ("MEDCORE_SHARED", "MEDCORE_DEMO", "SAM_CHECKPOINT", "MEDSAM_CHECKPOINT", "POLYPS", *lite):
        monkeypatch.setenv(name, "/somewhere")
    assert isinstance(load_config(path), Config)


def test_the_paths_of_a_study_s_copy_follow_the_study(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "mounted" / "elsewhere"
    far = tmp_path / "far"
    for place in (new / "kv", new / "runs" / "s" / "trials", far):
        place.mkdir(parents=True)
    (new / "general.safetensors").write_text("")
    values = {
        "study": "s",
        "output": str(old / "runs"),
        "model": {"base": str(old / "general.safetensors"), "adapted": str(old / "gone.safetensors")},
        "data": {"folders": [str(old / "kv"), str(far)]},
    }
    (new / "runs" / "s" / "config.yaml").write_text(yaml.safe_dump(values))
    assert load_config(new / "runs" / "s" / "config.yaml").output == old / "runs"  # a folder of the user's own
    (new / "runs" / "s" / "study.json").write_text("{}")
    config = load_config(new / "runs" / "s" / "config.yaml")
    assert config.folder == new / "runs" / "s" and config.model.base == new / "general.safetensors"
    assert config.model.adapted == old / "gone.safetensors"  # which is named in the error
    assert config.data.folders == (new / "kv", far)
    assert load_config(new / "runs" / "s" / "config.yaml", follow=False).output == old / "runs"
    (new / "mine.yaml").write_text(yaml.safe_dump(values))
    assert load_config(new / "mine.yaml").output == old / "runs"
    (old / "kv").mkdir(parents=True)  # a copy reads what its configuration says
    assert load_config(new / "runs" / "s" / "config.yaml").data.folders[0] == old / "kv"
