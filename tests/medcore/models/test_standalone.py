"""The one-file loader of an export gives medcore's masks in a Python that cannot import medcore."""

from __future__ import annotations

import ast
import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from medcore.models.checkpoint import save
from medcore.models.sam import MedSam, build, predictor
from medcore.models.spec import ModelSpec
from medcore.models.standalone import SCRIPT
from tests.support.helpers import TINY, spec_of
from tests.support.studies.study_files import environment

if TYPE_CHECKING:
    from segment_anything import SamPredictor

BOX = (6, 10, 70, 44)
#: Unequal widths, one block without heads, another without channels, and one with neither.
SPECS = {
    "unequal": spec_of(TINY, heads=(2, 0, 3, 1), channels=(48, 5, 0, 1)),
    "empty block": spec_of(TINY, heads=(0, 3, 1, 2), channels=(0, 7, 48, 3)),
    "dense": ModelSpec.dense(TINY),
}


@pytest.fixture(scope="module")
def load_pruned() -> ModuleType:
    """The script as a module. It imports torchvision, which processes that only collect tests need not wait for."""
    from medcore.models.standalone import load_pruned

    return load_pruned


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 (50, 90, 3): neither square nor of the model's size."""
    return np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)


def random_model(spec: ModelSpec) -> MedSam:
    torch.manual_seed(11)  # its mask covers half of the picture
    return build(spec)


def logits_of(sam: SamPredictor, picture: np.ndarray) -> np.ndarray:
    """Logits (50, 90) at the picture's size."""
    sam.set_image(picture)
    logits: np.ndarray = sam.predict(box=np.array(BOX), multimask_output=False, return_logits=True)[0][0]
    return logits


@pytest.mark.parametrize("name", SPECS)
def test_logits_equal_medcores(load_pruned: ModuleType, name: str, picture: np.ndarray, tmp_path: Path) -> None:
    model = random_model(SPECS[name])
    save(tmp_path / "model.safetensors", model)
    ours = logits_of(predictor(model), picture)
    theirs = logits_of(load_pruned.predictor(load_pruned.load(tmp_path / "model.safetensors")), picture)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert ours.std() > 1e-3


def test_mask_is_the_same_where_medcore_cannot_be_imported(picture: np.ndarray, tmp_path: Path) -> None:
    model = random_model(SPECS["unequal"])
    sam = predictor(model)
    save(tmp_path / "model.safetensors", model)
    (tmp_path / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    expected = logits_of(sam, picture)
    assert 0.2 < (expected > 0).mean() < 0.8
    Image.fromarray(picture).save(tmp_path / "image.png")
    program = f"""
import sys
for name in ("medcore", "search", "results", "safetensors", "onnx"):
    sys.modules[name] = None                     # importing it now raises ImportError
sys.path.insert(0, {str(tmp_path)!r})
import load_pruned, numpy
load_pruned.main("model.safetensors", "image.png", "{",".join(map(str, BOX))}", "mask.png")
sam = load_pruned.predictor(load_pruned.from_pretrained("."))
sam.set_image(numpy.asarray(load_pruned.Image.open("image.png")))
numpy.save("logits.npy", sam.predict(box=numpy.array({BOX}), multimask_output=False, return_logits=True)[0][0])
"""
    command = [sys.executable, "-I", "-W", "error::UserWarning:load_pruned", "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    logits, mask = np.load(tmp_path / "logits.npy"), np.asarray(Image.open(tmp_path / "mask.png"))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.array_equal(mask > 0, expected > 0)


def test_a_folder_gives_its_only_model(load_pruned: ModuleType, tmp_path: Path) -> None:
    """The folder is an export, an MLflow model, or a snapshot of a repository in the Hub's cache."""
    blob, snapshot = tmp_path / "cache" / "blobs" / "0f1e", tmp_path / "cache" / "snapshots" / "35e5"
    for folder in (blob.parent, snapshot, tmp_path / "mlflow" / "artifacts"):
        folder.mkdir(parents=True)
    save(blob, random_model(SPECS["unequal"]))
    (snapshot / "model.safetensors").symlink_to(blob)
    (snapshot / "._model.safetensors").write_bytes(b"what another system left")
    (tmp_path / "mlflow" / "artifacts" / "model.safetensors").write_bytes(blob.read_bytes())
    expected = load_pruned.load(snapshot / "model.safetensors").state_dict()
    for folder in (snapshot, str(tmp_path / "mlflow")):
        found = load_pruned.from_pretrained(folder).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    (snapshot / "other.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for place, reason in (
        (snapshot, r"2 models \('model.safetensors', 'other.safetensors'\); give the folder of one"),
        (tmp_path / "empty", "empty: it holds no .safetensors file"),
        (blob, r"0f1e: no such folder; load\(\) reads a file"),
        ("owner/name", "owner/name: no such folder; .* downloaded first"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            load_pruned.from_pretrained(place)
        assert "\n" not in str(caught.value)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"other\.safetensors: not safetensors, or truncated"):
        load_pruned.from_pretrained(snapshot)


def test_the_script_says_how_it_is_called(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, SCRIPT], env=environment(), capture_output=True, text=True, timeout=240)
    assert result.returncode == 1 and "python load_pruned.py model.safetensors image.png" in result.stderr


def test_the_script_imports_nothing_of_this_project() -> None:
    found = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found - sys.stdlib_module_names == {"numpy", "torch", "torchvision", "PIL", "segment_anything"}
    assert len(SCRIPT.read_text().splitlines()) <= 350


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_reader_equals_the_package(load_pruned: ModuleType, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = {"a": torch.randn(3, 5).to(dtype), "none": torch.empty(0, 4, dtype=dtype), "b": torch.randn(7).to(dtype)}
    save_file(state, path, metadata={"format": "x"})
    metadata, read = load_pruned.read_safetensors(path)
    assert metadata == {"format": "x"} and read.keys() == load_file(path).keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in load_file(path).items())


def test_wrong_files_are_refused(load_pruned: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a model exported by medcore"):
        load_pruned.load(path)
    save(path, random_model(SPECS["unequal"]))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<html>404</html>", whole[:100]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not safetensors, or truncated"):
            load_pruned.load(path)
    state = {name: tensor.clone() for name, tensor in random_model(SPECS["dense"]).state_dict().items()}
    save_file(state, path, metadata={"format": "medcore-1", "spec": json.dumps(SPECS["unequal"].to_dict())})
    with pytest.raises(ValueError, match="size mismatch"):
        load_pruned.load(path)


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Write a model whose header `change` has edited; it gets the header and the structure, and may return a header."""
    save(path, random_model(SPECS["unequal"]))
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    spec = json.loads(header["__metadata__"]["spec"])
    replaced = change(header, spec)
    if header.get("__metadata__"):
        header["__metadata__"].setdefault("spec", json.dumps(spec))
    text = json.dumps(header if replaced is None else replaced).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])


def without_spec(header: dict[str, Any], spec: dict[str, Any]) -> None:
    header["__metadata__"] = {"format": "medcore-1"}


def structure(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Change fields of the structure; those of the architecture begin with `arch__`, the decoder's with `decoder__`."""

    def change(header: dict[str, Any], spec: dict[str, Any]) -> None:
        without_spec(header, spec)
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            {"": spec, "arch": spec["arch"], "decoder": spec["arch"]["decoder"]}[section][name] = value

    return change


def tensor(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Change the entry of a tensor that is not empty."""
    return lambda header, _: header["image_encoder.neck.0.weight"].update(changes)


WRONG: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "metadata null": (lambda header, _: header.update(__metadata__=None), "not a model exported by medcore"),
    "metadata of numbers": (lambda header, _: header.update(__metadata__={"format": 1}), "metadata are no texts"),
    "header a list": (lambda *_: [], "header is no object"),
    "no structure": (
        lambda header, _: header.update(__metadata__={"format": "medcore-1", "spec": "{}"}),
        "no architecture",
    ),
    "no JSON": (
        lambda header, _: header.update(__metadata__={"format": "medcore-1", "spec": "["}),
        "structure of a model",
    ),
    "deep": (lambda header, _: header.update(__metadata__={"format": "medcore-1", "spec": "[" * 10**5}), "structure"),
    "equal offsets": (tensor(data_offsets=[8, 8]), "which its shape does not"),
    "negative offset": (tensor(data_offsets=[-3072, 0]), "has no place"),
    "overlapping": (tensor(data_offsets=[0, 3072]), "of the numbers instead of"),
    "offsets of texts": (tensor(data_offsets=["0", "8"]), "has no place"),
    "no entry": (lambda header, _: header.update(more=5), "has no type"),
    "integers": (tensor(dtype="I32"), "has no type"),
    "huge shape": (tensor(shape=[2**62, 2**62]), "has no shape"),
    "negative shape": (tensor(shape=[-32, -24, 1, 1]), "has no shape"),
    "another name": (lambda header, _: header.update(extra=header.pop("image_encoder.neck.0.weight")), "size mismatch"),
    "infinite depth": (structure(decoder__depth=10**9), "depth"),
    "infinite counts": (structure(heads=[float("inf"), 0, 3, 1]), "heads"),
    "fractions": (structure(channels=[48.0, 5, 0, 1]), "channels"),
    "texts": (structure(heads="2031"), "heads"),
    "more heads than there are": (structure(heads=[4, 0, 3, 1]), "heads"),
    "other widths": (structure(heads=[1, 0, 3, 1]), "size mismatch"),
    "no colours": (structure(arch__pixel_std=[1e-300] * 3), "pixel_std"),
    "colours that are no numbers": (structure(arch__pixel_mean=[float("nan")] * 3), "pixel_mean"),
    "terabytes of MLP": (structure(arch__mlp_ratio=1e9), "mlp_ratio"),
    "a block that is not there": (structure(arch__global_attn_indexes=[4]), "global_attn_indexes"),
    "a huge image": (structure(arch__img_size=2**40), "img_size"),
    "no multiple": (structure(arch__num_heads=5), "num_heads"),
}


@pytest.mark.parametrize("name", WRONG)
def test_edited_files_are_refused_before_anything_is_built(load_pruned: ModuleType, name: str, tmp_path: Path) -> None:
    change, words = WRONG[name]
    path = tmp_path / "m.safetensors"
    edited(path, change)
    with pytest.raises(ValueError) as caught:
        load_pruned.load(path)
    message = str(caught.value)
    assert words in message and str(path) in message and message.isprintable() and len(message) < 500


def test_weights_that_are_not_finite_are_refused(load_pruned: ModuleType, tmp_path: Path) -> None:
    model = random_model(SPECS["dense"])
    with torch.no_grad():
        model.image_encoder.neck[0].weight[0, 0] = torch.nan  # type: ignore[index]
    save(tmp_path / "m.safetensors", model)
    with pytest.raises(ValueError, match=r"not finite .* image_encoder\.neck\.0\.weight"):
        load_pruned.load(tmp_path / "m.safetensors")


def test_loading_builds_no_dense_model(load_pruned: ModuleType, tmp_path: Path) -> None:
    """The encoder of segment-anything is dense until it is narrowed; here that would take 0.5 GB."""
    arch = dataclasses.replace(TINY, mlp_ratio=2700.0, depth=40, global_attn_indexes=(1,))
    path = tmp_path / "m.safetensors"
    save(path, build(spec_of(arch, (1,) * 40, (1,) * 40)))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, before[1]))
    try:
        assert len(load_pruned.load(path).image_encoder.blocks) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
