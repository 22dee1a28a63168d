"""Checkpoints come back bit for bit, and every wrong file is refused in one line that names it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES, spec_from_json
from medcore.models.checkpoint import file_hash, load, read_info, save
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, shared_dir, spec_of

UNEQUAL = spec_of(TINY, heads=(2, 0, 3, 1), channels=(48, 5, 0, 1))
IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BOX = torch.tensor([[4.0, 8.0, 40.0, 50.0]])

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    return dict(build(ModelSpec.dense(TINY)).state_dict())


def write_architecture(path: Path) -> None:
    path.write_text(json.dumps(TINY.to_dict()))


def segment(model: MedSam) -> torch.Tensor:
    with torch.no_grad():
        return model.segment(IMAGES, BOX)


def refusal(action: Callable[[], object], path: Path) -> str:
    """The one line with which `action` fails; it must name the file."""
    with pytest.raises(MedcoreError) as caught:
        action()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("spec", [UNEQUAL, ModelSpec.dense(TINY)])
def test_saved_models_come_back_exactly(spec: ModelSpec, tmp_path: Path) -> None:
    model = build(spec)
    path = tmp_path / "new" / "model.safetensors"
    save(path, model, {"trial": "7"})
    again = load(path)
    assert again.spec == spec and not again.training
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(segment(again), segment(model))
    info = read_info(path)
    assert info["trial"] == "7" and info["format"] == "medcore-1"
    assert spec_from_json(info["spec"]) == spec
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_loading_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    save(tmp_path / "m.safetensors", build(UNEQUAL))
    before = torch.get_rng_state()
    model = load(tmp_path / "m.safetensors", attention="plain")
    assert torch.equal(before, torch.get_rng_state())
    assert model.attention == "plain" and all(p.requires_grad for p in model.parameters())


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, build(UNEQUAL))
    first = file_hash(path)
    save(path, build(ModelSpec.dense(TINY)))
    assert load(path).spec.is_dense and file_hash(path) != first and re.fullmatch("[0-9a-f]{64}", first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_state_dictionaries_of_any_precision(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    model = load(path, TINY)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(value, state[name].to(dtype).float()) for name, value in model.state_dict().items())


def test_training_checkpoints_hold_the_model_inside(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"model": state, "optimizer": {"lr": 1e-4}, "epoch": 3}, path)
    assert load(path, TINY).spec.is_dense


def test_the_architecture_is_found_next_to_the_file(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(state, path)
    message = refusal(lambda: load(path), path)
    assert "its folder has no architecture file;" in message and "vit_b" in message
    (tmp_path / "results.json").write_text('{"dice": 0.9}')
    write_architecture(tmp_path / "tiny.json")
    for arch in (None, "tiny", "tiny.json", tmp_path / "tiny.json", TINY):
        assert load(path, arch).arch == TINY
    (tmp_path / "other.json").write_text(json.dumps(ARCHITECTURES["vit_b"].to_dict()))
    assert "its folder has 2 architecture files" in refusal(lambda: load(path), path)
    write_architecture(tmp_path / "m.json")
    assert load(path).arch == TINY
    with pytest.raises(MedcoreError, match="unknown architecture 'vit_x'"):
        load(path, "vit_x")


def test_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "absent.pth"
    for action in (load, read_info, file_hash):
        assert "no such checkpoint" in refusal(lambda action=action: action(path), path)  # type: ignore[misc]
    assert "is a folder" in refusal(lambda: load(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors"])
@pytest.mark.parametrize("content", ["truncated", "text", "empty", "random", "zip"])
def test_damaged_files(name: str, content: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "m.pth":
        torch.save(state, path)
    else:
        save(path, build(UNEQUAL))
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    noise = bytes(torch.randint(256, (4096,), generator=generator).tolist())
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "text": b"<html>404 Not Found</html>\n",
            "empty": b"",
            "random": noise,
            "zip": b"PK\x03\x04" + noise,
        }[content]
    )
    assert "not a checkpoint, or truncated" in refusal(lambda: load(path, TINY), path)
    if name == "m.safetensors":
        assert "not a checkpoint, or truncated" in refusal(lambda: read_info(path), path)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_not_run(zipped: bool, state: State, tmp_path: Path) -> None:
    path, target = tmp_path / "m.pth", tmp_path / "taken"
    torch.save({**state, "x": Attack(target)}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(lambda: load(path, TINY), path)
    assert not target.exists()
    assert not zipped or "refused, it holds pickled objects" in message


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(build(UNEQUAL), path)
    assert "refused, it holds pickled objects" in refusal(lambda: load(path, TINY), path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)])
def test_files_without_a_state_dictionary(content: object, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(content, path)
    assert "no state dictionary" in refusal(lambda: load(path, TINY), path)


def test_wrong_architecture_names_the_shapes(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(state, path)
    message = refusal(lambda: load(path, "vit_b"), path)
    assert "no vit_b model" in message
    assert "image_encoder.pos_embed is (1, 8, 8, 24) instead of (1, 64, 64, 768)" in message
    assert re.search(r"and \d+ more", message)


def test_missing_and_extra_tensors_are_listed(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    without = {name: tensor for name, tensor in state.items() if "iou_prediction_head" not in name}
    torch.save(without, path)
    message = refusal(lambda: load(path, TINY), path)
    assert "missing mask_decoder.iou_prediction_head.layers.0.weight" in message and "and 1 more" in message
    torch.save({**state, "ema.step": torch.zeros(1)}, path)
    assert "unknown tensors ema.step" in refusal(lambda: load(path, TINY), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    state["image_encoder.blocks.1.mlp.lin1.weight"][3, 2] = value
    torch.save(state, path)
    message = refusal(lambda: load(path, TINY), path)
    assert "not finite" in message and "image_encoder.blocks.1.mlp.lin1.weight" in message


def test_foreign_and_inconsistent_safetensors(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    assert "without metadata" in refusal(lambda: read_info(path), path)
    assert "name the architecture" in refusal(lambda: load(path), path)
    assert load(path, TINY).spec.is_dense
    save_file(state, path, metadata={"format": "medcore-1", "spec": UNEQUAL.to_json()})
    assert "instead of" in refusal(lambda: load(path), path)
    for spec in (
        "{",
        "[]",
        '{"arch": {}}',
        '{"arch": 1, "heads": 2, "channels": 3}',
        '{"arch": {}, "heads": 1}',
    ):
        save_file(state, path, metadata={"format": "medcore-1", "spec": spec})
        refusal(lambda: load(path), path)
    save(path, build(UNEQUAL))
    assert "not the vit_b asked for" in refusal(lambda: load(path, "vit_b"), path)


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "m.safetensors"
    assert "cannot write" in refusal(lambda: save(path, build(UNEQUAL)), path)
    folder = tmp_path / "taken.safetensors"
    (folder / "inside").mkdir(parents=True)
    assert "cannot write" in refusal(lambda: save(folder, build(UNEQUAL)), folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "taken.safetensors"]


@pytest.mark.parametrize("name", ["general", "medical"])
def test_real_weights_load_strictly(name: str) -> None:
    path = shared_dir() / "weights" / f"{name}.pth"
    model = load(path)
    raw = torch.load(path, weights_only=True)
    assert model.arch.name == "vit_ti_256" and model.spec.is_dense
    assert set(raw) == set(model.state_dict())
    assert all(torch.equal(tensor.float(), model.state_dict()[key]) for key, tensor in raw.items())
