"""A checkpoint is what it holds: any name, wrapper and prefix; a refusal names what is there and what is nearest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medcore.errors import CheckpointError, MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import file_hash, load, save
from medcore.models.formats.content import Content, is_checkpoint
from medcore.models.formats.structure import resolve
from medcore.models.sam import build, build_empty
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, spec_of

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(5)
    return dict(build(ModelSpec.dense(TINY)).state_dict())


def renamed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def refusal(path: Path) -> str:
    with pytest.raises(MedcoreError) as caught:
        load(path, TINY)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    return message


def same(path: Path, state: State) -> bool:
    loaded = load(path, TINY).state_dict()
    return all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


WRITERS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "parallel training": lambda state: {"model": renamed(state, "module."), "epoch": 7},
    "Lightning": lambda state: {
        "state_dict": {**renamed(state, "model."), "loss.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.4.0",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": {"lr": 1e-4, "betas": (0.9, 0.999)},
    },
    "nested": lambda state: {"model_state_dict": renamed(state, "module.model.sam."), "args": None},
    "compiled": lambda state: {"state_dict": {"model": renamed(state, "_orig_mod.")}},
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["m.pth", "last.ckpt", "pytorch_model.bin", "m.safetensors", "weights"])
def test_wrappers_and_prefixes_whatever_the_name_is(name: str, writer: str, state: State, tmp_path: Path) -> None:
    torch.save(WRITERS[writer](state), tmp_path / name)
    assert is_checkpoint(tmp_path / name) and same(tmp_path / name, state)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth", "m"])
def test_safetensors_of_others_and_headers_that_look_like_pickles(name: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / name
    for padding in range(0, 256, 8):  # the first byte of a file is the lowest of its header's length
        save_file(renamed(state, "module."), path, metadata={"of": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80 and same(path, state)


def test_files_of_ours_under_another_name(tmp_path: Path) -> None:
    spec = spec_of(TINY, (2, 0, 3, 1), (48, 5, 0, 1))
    save(tmp_path / "m.pth", build(spec))
    assert load(tmp_path / "m.pth").spec == spec
    later = {**build(spec).state_dict()}
    save_file(later, tmp_path / "later.safetensors", metadata={"format": "medcore-9", "spec": spec.to_json()})
    assert "medcore-1" in refusal(tmp_path / "later.safetensors")


def test_an_old_file_of_torch_save_without_an_archive(state: State, tmp_path: Path) -> None:
    torch.save({"model": state}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    assert same(tmp_path / "m.pth", state)


def test_two_models_in_one_file_are_not_guessed_between(state: State, tmp_path: Path) -> None:
    torch.save({**renamed(state, "student."), **renamed(state, "teacher.")}, tmp_path / "m.pth")
    message = refusal(tmp_path / "m.pth")
    assert "2 models" in message and "student." in message and "teacher." in message
    torch.save({"model": state, "state_dict": state}, tmp_path / "m.pth")
    assert "several state dictionaries" in refusal(tmp_path / "m.pth")


def test_refusals_name_the_nearest(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    mistyped = dict(state)
    mistyped["image_encoder.posembed"] = mistyped.pop("image_encoder.pos_embed")
    torch.save(mistyped, path)
    message = refusal(path)
    assert "missing image_encoder.pos_embed" in message and "nearest name is image_encoder.posembed" in message
    torch.save({"backbone.conv.weight": torch.zeros(2)}, path)
    message = refusal(path)
    assert "backbone.conv.weight" in message and "image_encoder." in message
    torch.save({"image_encoder.trunk.pos_embed": torch.zeros(2)}, path)
    assert "SAM 2" in refusal(path)


def test_shapes_tell_a_known_architecture_and_the_nearest_one(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    known = ARCHITECTURES["vit_l"]
    shapes = dict(build_empty(ModelSpec.dense(known)).state_dict())
    assert resolve(path, Content(renamed(shapes, "module."), 1), None) == known
    shapes["image_encoder.pos_embed"] = torch.empty(1, 32, 32, 1024, device="meta")
    with pytest.raises(CheckpointError, match=r"no architecture file; .* nearest is vit_l, with \d+ of \d+ shapes"):
        resolve(path, Content(shapes, 1), None)


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_a_training_script_are_not_made(zipped: bool, state: State, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "argparse.Namespace" in message and "state dictionary alone" in message


def test_things_in_a_checkpoints_place(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    for content, words in {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "Git LFS",
        b"<!DOCTYPE html><html>": "web page",
        b"\x89HDF\r\n\x1a\n": "HDF5",
        b"\x80\x04}.": "not a checkpoint",
    }.items():
        path.write_bytes(content)
        assert words in refusal(path)
    os.mkfifo(tmp_path / "fifo.pth")
    assert "no regular file" in refusal(tmp_path / "fifo.pth")
    assert "no file" not in refusal(tmp_path) and "is a folder" in refusal(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        file_hash(tmp_path / "absent")
