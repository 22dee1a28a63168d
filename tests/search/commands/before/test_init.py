"""`medcore init`: what it finds, which model it takes for which, and that a check accepts what it writes."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcore.errors import CheckpointError, ConfigError, DataError, printable
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load
from search.base.config import load_config
from search.commands.before.found import Checkpoint, choose
from search.commands.before.init import init
from tests.support.helpers import TINY
from tests.support.machines.command_line import medcore
from tests.support.studies.study_files import own_polyps, write_tiny_study


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two checkpoints in one folder, and images in another."""
    (tmp_path / "made").mkdir()
    write_tiny_study(tmp_path / "made")
    folder = tmp_path / "my project"
    (folder / "weights").mkdir(parents=True)
    shutil.copyfile(tmp_path / "made" / "base.safetensors", folder / "weights" / "sam_tiny.safetensors")
    shutil.copyfile(tmp_path / "made" / "adapted.safetensors", folder / "weights" / "medsam_tiny.safetensors")
    shutil.copytree(own_polyps(tmp_path / "made"), folder / "data" / "polyps")
    return folder


def test_what_it_writes_passes_the_check(project: Path) -> None:
    done = medcore("init", project)
    assert done.returncode == 0, done.stderr
    config = load_config(project / "medcore.yaml")
    assert config.study == "my-project" and config.output == project / "runs"
    assert config.model.base == project / "weights" / "sam_tiny.safetensors"
    assert config.model.adapted == project / "weights" / "medsam_tiny.safetensors"
    assert config.data.folders == (project / "data" / "polyps",)
    text = (project / "medcore.yaml").read_text()
    assert "# the general model, by their names" in text and "# 80 images, splits.json" in text
    assert "data: " in done.stdout and f"next: medcore check {project / 'medcore.yaml'}" in done.stdout
    checked = medcore("check", project / "medcore.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_file_is_replaced_only_by_force(project: Path) -> None:
    path = project / "medcore.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already; add --force"):
        init(project)
    assert path.read_text() == "mine"
    other = project / "deep" / "other.yaml"
    assert init(project, other).path == other and other.is_file()
    init(project, force=True)
    assert path.read_text() != "mine"


def test_masks_with_several_values_get_labels_any(project: Path) -> None:
    for mask in list((project / "data" / "polyps" / "masks").iterdir()):
        values = (np.asarray(Image.open(mask)) > 0).astype(np.uint8)
        values[0, :2] = 1, 2
        Image.fromarray(values).save(mask.with_suffix(".png"))
    init(project)
    assert load_config(project / "medcore.yaml").data.labels == "any"
    assert "# polyps: a label map with the values 0, 1, 2" in (project / "medcore.yaml").read_text()


def test_one_model_is_enough(project: Path) -> None:
    (project / "weights" / "medsam_tiny.safetensors").unlink()
    (project / "weights" / "half.pth").write_bytes(b"PK\x03\x04")
    written = init(project)
    config = load_config(written.path)
    assert config.model.base.name == "sam_tiny.safetensors"
    assert config.model.adapted == config.adapt.out == project / "adapted.safetensors"
    assert any("half.pth" in line for line in written.lines) and "medcore adapt" in written.lines[-1]
    (project / "weights" / "sam_tiny.safetensors").rename(project / "weights" / "finetuned.safetensors")
    init(project, force=True)
    config = load_config(written.path)
    assert config.model.base == config.model.adapted == project / "weights" / "finetuned.safetensors"


@pytest.mark.parametrize("name", ["a\x85b", "a\x7fb", 'a"b\\', "a\tb", "a: #b", "é中🙂", "a\u2028b", "a\ufeffb", "~"])
def test_odd_names_are_read_back(name: str, project: Path) -> None:
    (project / "data" / "polyps").rename(project / "data" / name)
    (project / "weights").rename(project / name)
    config = load_config(init(project).path)
    assert config.data.folders == (project / "data" / name,)
    assert config.model.base.parent == config.model.adapted.parent == project / name


@pytest.mark.parametrize("name", [b"a$HOME", b"a$b", b"a\xffb"])
def test_names_that_a_configuration_cannot_hold_are_listed(name: bytes, project: Path) -> None:
    odd = project / "data" / os.fsdecode(name)
    shutil.copytree(project / "data" / "polyps", odd)
    shutil.copyfile(project / "weights" / "sam_tiny.safetensors", project / "weights" / f"{odd.name}.pth")
    written = init(project)
    config = load_config(written.path)
    assert config.data.folders == (project / "data" / "polyps",)
    assert config.model.base == project / "weights" / "sam_tiny.safetensors"
    listed = [line for line in written.lines if line.endswith("; rename it")]
    assert [printable(odd.name) in line for line in map(printable, listed)] == [True, True]
    shutil.rmtree(project / "data" / "polyps")
    done = medcore("init", project, "--force")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "rename it" in done.stderr


def test_without_a_model_or_data_it_says_what_is_missing(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / "data")
    with pytest.raises(DataError, match="no data folder was found"):
        init(project)
    shutil.rmtree(project / "weights")
    (project / "notes.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"no checkpoint of a known model was found \(.*notes\.pth"):
        init(project)
    with pytest.raises(ConfigError, match="no such folder"):
        init(tmp_path / "absent")


def test_the_architecture_is_named_where_no_shape_shows_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = dataclasses.replace(TINY, name="twin", pixel_mean=(0.0, 0.0, 0.0))
    for module in (
        *("medcore.models.architectures", "medcore.models.formats.structure"),
        *("search.commands.before.found", "search.commands.before.init"),
    ):
        monkeypatch.setattr(f"{module}.ARCHITECTURES", {TINY.name: TINY, twin.name: twin})
    for file in list((project / "weights").iterdir()):
        torch.save(load(file).state_dict(), file.with_suffix(".pth"))
        file.unlink()
    with pytest.raises(CheckpointError, match=f"shapes are those of {TINY.name} and twin, .*with --arch"):
        init(project)
    with pytest.raises(ConfigError, match=f"unknown architecture 'triplet'; known are {TINY.name}, twin"):
        init(project, arch="triplet")
    config = load_config(init(project, arch="twin").path)
    assert config.model.architecture == "twin" and config.model.adapted.name == "medsam_tiny.pth"


@pytest.mark.parametrize(
    ("names", "general", "medical"),
    [
        (["sam_vit_b.pth", "medsam_vit_b.pth"], "sam_vit_b.pth", "medsam_vit_b.pth"),
        (["general.pth", "medical.pth"], "general.pth", "medical.pth"),
        (["a.pth", "medsam.pth"], "a.pth", "medsam.pth"),
        (["zz.pth", "sam-vit-b.pth"], "sam-vit-b.pth", "zz.pth"),
        (["medsam/model.pth", "sam/model.pth"], "sam/model.pth", "medsam/model.pth"),
        (["one.pth", "two.pth"], "one.pth", "two.pth"),
        (["sam.pth"], "sam.pth", None),
        (["polyp.pth"], None, "polyp.pth"),
        ([], None, None),
    ],
)
def test_roles_by_name(names: list[str], general: str | None, medical: str | None, tmp_path: Path) -> None:
    pair = choose([Checkpoint(tmp_path / name, TINY, True) for name in names], tmp_path)
    chosen = [None if each is None else str(each.path.relative_to(tmp_path)) for each in (pair.general, pair.medical)]
    assert chosen == [general, medical]


def test_a_pair_has_one_architecture_and_is_dense(tmp_path: Path) -> None:
    large = ARCHITECTURES["vit_b"]
    checkpoints = [
        Checkpoint(tmp_path / "medsam_large.pth", large, True),
        Checkpoint(tmp_path / "medsam_pruned.pth", TINY, False),
        Checkpoint(tmp_path / "medsam.pth", TINY, True),
        Checkpoint(tmp_path / "sam.pth", TINY, True),
    ]
    pair = choose(checkpoints, tmp_path)
    assert pair.general is checkpoints[3] and pair.medical is checkpoints[2]
