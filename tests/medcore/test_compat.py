"""Packages whose `__init__` waits until it is needed, made for the test and the real one."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from medcore.compat import defer_init
from tests.support.studies.study_files import environment

NAME = "deferred_for_test"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose `__init__` imports one of its modules and fails if there is a file `broken`."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pathlib import Path\n"
        "if (Path(__file__).parent / 'broken').exists():\n"
        "    raise ImportError('no library')\n"
        "from .light import VALUE\n"
        "heavy = VALUE + 1\n"
    )
    (folder / "light.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def deferred(calls: list[str]) -> ModuleType:
    """The package, whose `__init__` has not run."""
    defer_init(NAME, before=lambda: calls.append("before"))
    return importlib.import_module(NAME)


def test_init_runs_once_and_only_for_a_name_that_it_defines(package: Path) -> None:
    calls: list[str] = []
    found = deferred(calls)
    assert importlib.import_module(f"{NAME}.light").VALUE == 1
    assert found.light.VALUE == 1 and not hasattr(found, "__wrapped__") and not calls
    assert found.heavy == 2 and found.VALUE == 1 and calls == ["before"]
    with pytest.raises(AttributeError, match=f"module '{NAME}' has no attribute 'absent'"):
        _ = found.absent
    assert calls == ["before"]


def test_all_names_of_the_package_can_be_imported(package: Path) -> None:
    deferred([])
    names: dict[str, int] = {}
    exec(f"from {NAME} import *", names)
    assert names["heavy"] == 2


def test_an_init_that_fails_says_so_each_time(package: Path) -> None:
    found = deferred([])
    (package / "broken").touch()
    for _ in range(2):
        with pytest.raises(ImportError, match="no library"):
            _ = found.heavy
    (package / "broken").unlink()
    assert found.heavy == 2


def test_a_package_that_is_imported_stays_as_it_is(package: Path) -> None:
    found = importlib.import_module(NAME)
    calls: list[str] = []
    assert deferred(calls) is found and found.heavy == 2 and not calls


def test_a_package_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        defer_init("no_such_package", before=lambda: None)


def test_models_need_no_torchvision_and_segment_anything_is_whole_afterwards(tmp_path: Path) -> None:
    script = """
import sys
import medcore.models.sam as ours
assert not {"torchvision", "torch._dynamo", "segment_anything.predictor"} & set(sys.modules)
from medcore.training.loop import AdamW
layer = ours.nn.Linear(2, 2)
optimizer = AdamW(layer.parameters())
optimizer.zero_grad()
layer.weight.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
from medcore.models.architectures import ARCHITECTURES
ours.build_empty(ours.ModelSpec.dense(ARCHITECTURES["vit_b"]))
assert "torch._dynamo" not in sys.modules
import segment_anything
assert issubclass(ours.MedSam, segment_anything.modeling.Sam)
assert {"vit_b", "vit_l", "vit_h"} <= set(segment_anything.sam_model_registry)
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
assert SamPredictor.__module__ == "segment_anything.predictor"
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
