"""What is compared between nodes, without a cluster."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy
import pandas
import PIL
import pyarrow
import pytest
import ray
import safetensors
import scipy
import torch

from medcore.models.architectures import ARCHITECTURES
from medcore.registry import PLUGINS
from search.base.config import load_config
from search.driver.placement import gpu_memory_problem
from search.driver.preflight import checkpoint_files, least_gpu_bytes, study_folder_problems
from search.nodes.every_node import node_names
from search.nodes.probe import (
    DRIVER,
    Question,
    answer,
    checkpoint,
    code_digest,
    code_folders,
    data_folder,
    differences,
    gpu_memory,
    look,
    plugin_digest,
    versions,
    why_unlike,
)
from search.nodes.problems import listed
from tests.support.helpers import nvidia_smi
from tests.support.machines.ray_nodes import ROOT
from tests.support.studies.study_files import write_tiny_study


def make_data(folder: Path, count: int = 3) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            (folder / kind / f"{number}.png").write_bytes(bytes(10 + number))
    return folder


def test_data_folders_are_told_apart_by_names_sizes_and_splits(tmp_path: Path) -> None:
    one = data_folder(make_data(tmp_path / "one"))
    assert (one.files, one.size, one.reason) == (6, 2 * (10 + 11 + 12), None)
    other = make_data(tmp_path / "other")
    (other / "notes.txt").write_text("not read")
    assert data_folder(other) == one
    (other / "splits.json").write_text('{"train": ["0"]}')
    split = data_folder(other)
    assert split.digest != one.digest
    (other / "masks" / "1.png").rename(other / "masks" / "9.png")
    assert data_folder(other).digest not in (one.digest, split.digest)
    shutil.rmtree(other / "masks")
    assert data_folder(other).files == 3
    shutil.rmtree(other)
    assert data_folder(other).reason == "No such file or directory"


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 3_000_000])
def test_checkpoints_are_told_apart_by_size_and_samples(tmp_path: Path, size: int) -> None:
    content = bytearray(b"\1" * size)
    file = tmp_path / "a"
    file.write_bytes(content)
    same = checkpoint(file)
    assert same.size == size and checkpoint(file) == same
    file.write_bytes(content + b"\1")
    assert checkpoint(file).digest != same.digest
    for place in {0, size - 1} if size else ():
        changed = bytearray(content)
        changed[place] = 2
        file.write_bytes(changed)
        assert checkpoint(file).digest != same.digest
    assert checkpoint(tmp_path / "absent").reason == "No such file or directory"


def test_code_is_one_revision_or_another(tmp_path: Path) -> None:
    rooms = [ROOT / room for room in ("medcore", "search", "results")]
    assert list(code_folders()) == rooms
    copies = [tmp_path / room.name for room in rooms]
    for room, copy in zip(rooms, copies, strict=True):
        shutil.copytree(room, copy, ignore=shutil.ignore_patterns("__pycache__", "published"))
    assert code_digest(copies) == code_digest(rooms)
    with (tmp_path / "medcore" / "masks.py").open("a") as file:
        file.write("\n")
    assert code_digest(copies) != code_digest(rooms)


def test_a_node_like_the_driver_has_no_problem(tmp_path: Path) -> None:
    folder, file = make_data(tmp_path / "data"), tmp_path / "model"
    file.write_bytes(b"weights")
    (tmp_path / DRIVER).write_text("token")
    mine = answer(Question((folder,), (file,), tmp_path, "here", 0))
    assert (tmp_path / "here").read_text() == "token"
    assert differences(mine, mine) == [] and study_folder_problems(tmp_path, mine, True) == []
    theirs = dataclasses.replace(
        mine, code="0", versions=mine.versions | {"torch": "1.0"}, seen=mine.seen | {file: checkpoint(folder / "no")}
    )
    software, code, content = differences(mine, theirs)
    assert software.startswith(f"torch 1.0 (here {mine.versions['torch']}); install")
    assert "medcore" in code and "(0, here" in code
    assert content.startswith(f"{file} is not visible (No such file or directory)")
    (folder / "images" / "0.png").write_bytes(b"other")
    more = answer(Question((folder,), (), tmp_path, "there", 0))
    assert differences(dataclasses.replace(more, seen={folder: mine.seen[folder]}), more) == [
        f"{folder} has another content (6 files, 61 bytes; here 6 files, 66 bytes); give all nodes the same"
    ]
    assert differences(theirs, mine)[2:] == []  # what needs a part that the driver lacks reports it


def test_whatever_decides_results_or_files_is_compared() -> None:
    modules = (numpy, scipy, PIL, safetensors, pandas, pyarrow, ray, torch)
    names = {"PIL": "pillow"}
    known = {names.get(module.__name__, module.__name__): module.__version__.split("+")[0] for module in modules}
    assert known.items() <= versions().items()
    assert set(versions()) - set(known) == {"python", "segment-anything"}


def test_a_late_node_says_in_one_line_why_it_is_unlike(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    driver = look((), (file, tmp_path / "absent"))
    assert why_unlike(driver) is None
    other = dataclasses.replace(driver, versions=driver.versions | {"torch": "1.0", "scipy": "0.1"}, code="0")
    file.unlink()
    line = why_unlike(other)
    assert line == (
        f"torch {versions()['torch']} (here 1.0), scipy {versions()['scipy']} (here 0.1); install the versions of "
        "constraints.txt there, or submit with --pip, "
        f"also medcore's code is another revision ({driver.code}, here 0); install this one there, "
        f"also {file} is not visible (No such file or directory); put it on storage that all nodes mount at this path"
    )


def test_plugins_are_compared_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_package"
    (package / "inner").mkdir(parents=True)
    for file in (package / "__init__.py", package / "part.py", package / "inner" / "deep.py", tmp_path / "own_file.py"):
        file.write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    modules = ("own_file", "own_package", "own_package.part", "own_package.inner.deep")
    monkeypatch.setenv(PLUGINS, ",".join(modules))
    driver = look((), ())
    assert tuple(driver.plugins) == modules and "absent" not in driver.plugins.values()
    assert why_unlike(driver) is None
    for name in ("no_such", "own_file.part", "own_package.no", "own_package.no.no", ""):
        assert plugin_digest(name) == "absent"
    (package / "part.py").write_text("changed = True\n")
    (tmp_path / "own_file.py").unlink()
    line = why_unlike(driver)
    assert line is not None and line.count("differs") == 3
    assert line.startswith(f"plug-in own_file differs (absent, here {driver.plugins['own_file']}); install")


def test_gpus_that_ray_hands_out_are_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nvidia_smi(tmp_path / "three", 24576, 2048, 81920)))
    assert gpu_memory(2) == (80 * 2**30, 24 * 2**30)
    assert gpu_memory(8) == (80 * 2**30, 24 * 2**30, 2 * 2**30)
    monkeypatch.setenv("PATH", str(nvidia_smi(tmp_path / "mute", "[N/A]")))
    assert gpu_memory(1) == ()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_memory(1) == ()


def test_study_folder_must_be_shared_and_writable(tmp_path: Path) -> None:
    (tmp_path / DRIVER).write_text("token")
    blind = answer(Question((), (), tmp_path / "absent", "n", 0))
    assert "is not shared (No such file" in study_folder_problems(tmp_path, blind, False)[0]
    (tmp_path / "n").mkdir()  # no user can write there
    mute = answer(Question((), (), tmp_path, "n", 0))
    assert "cannot be written (Is a directory)" in study_folder_problems(tmp_path, mute, False)[0]
    fine = answer(Question((), (), tmp_path, "m", 0))
    assert "its files do not arrive" in study_folder_problems(tmp_path, fine, False)[0]


def test_gpu_share_must_hold_a_trial() -> None:
    assert gpu_memory_problem(4_000, 16_000, 0.25) is None
    short = gpu_memory_problem(5_000_000_000, 16_000_000_000, 0.25)
    assert short is not None and "needs at least 5.0 GB" in short and "4.0 GB of 16.0 GB" in short
    assert "search.gpus_per_trial to 0.32 or more" in short
    assert gpu_memory_problem(5_000_000_000, 16_000_000_000, 0.32) is None
    large = gpu_memory_problem(20_000_000_000, 16_000_000_000, 1)
    assert large is not None and "larger GPU" in large
    assert least_gpu_bytes(ARCHITECTURES["vit_b"]) == 4 * 89_670_912


def test_nodes_of_one_machine_are_told_apart() -> None:
    def node(key: str, host: str) -> dict[str, str]:
        return {"NodeID": key, "NodeManagerHostname": host, "NodeManagerAddress": "10.0.0.1"}

    names = node_names([node("a" * 20, "one"), node("b" * 20, "two"), node("c" * 20, "two")])
    assert list(names.values()) == [
        "node one (10.0.0.1)",
        "node two (10.0.0.1, bbbbbbbb)",
        "node two (10.0.0.1, cccccccc)",
    ]
    assert listed(["x"]) == "x"
    assert listed(["x", "y"]) == "nothing was started, there are 2 problems: (1) x; (2) y"


def test_architecture_files_belong_to_the_checkpoints(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path))
    assert checkpoint_files(config.model) == (config.model.base, config.model.adapted)
    architecture = config.model.adapted.with_suffix(".json")
    architecture.write_text("{}")
    assert checkpoint_files(config.model) == (config.model.base, config.model.adapted, architecture)
