"""Nothing that a file declares is allocated, and no tensor passes that is not what it seems."""

from __future__ import annotations

import dataclasses
import json
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medcore.errors import MedcoreError
from medcore.models.architectures import architecture_from
from medcore.models.checkpoint import load
from medcore.models.sam import build, build_empty
from medcore.models.spec import ModelSpec
from search.export.timing import dense_of
from tests.support.helpers import TINY

State = dict[str, Any]
NAME = "image_encoder.blocks.1.mlp.lin1.weight"


@pytest.fixture
def state() -> State:
    return dict(build(ModelSpec.dense(TINY)).state_dict())


def refusal(path: Path) -> str:
    with pytest.raises(MedcoreError) as caught:
        load(path, TINY)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    return message


@contextmanager
def addresses_of_at_most(extra: int) -> Iterator[None]:
    """This process may map only so many further bytes."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


CHANGES: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "meta": (lambda t: t.to("meta"), "meta"),
    "sparse rows": (lambda t: t.to_sparse_csr(), "sparse_csr"),
    "sparse": (lambda t: t.to_sparse(), "sparse_coo"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "qtensor"),
    "nested": (lambda t: torch.nested.nested_tensor([t[0], t[1]]), "nested"),
    "bool": (lambda t: t.bool(), "torch.bool"),
    "int8": (lambda t: t.to(torch.int8), "torch.int8"),
    "uint64": (lambda t: t.abs().to(torch.uint64), "UntypedStorage"),
    "eight bits": (lambda t: t.to(torch.float8_e4m3fn), "UntypedStorage"),
    "complex": (lambda t: t.to(torch.complex64), "torch.complex64"),
    "expanded": (lambda t: t[:1, :1].clone().expand(t.shape), "expanded"),
    "overlapping": (lambda t: torch.zeros(80).as_strided(t.shape, (1, 1)), "expanded"),
    "too large for float32": (lambda t: t.double() * 0 + 1e300, "not finite"),
    "no tensor": (lambda t: t.tolist(), "not tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CHANGES)
def test_tensors_that_are_no_plain_floats(kind: str, state: State, tmp_path: Path) -> None:
    change, words = CHANGES[kind]
    state[NAME] = change(state[NAME])
    torch.save(state, tmp_path / "m.pth")
    assert words in refusal(tmp_path / "m.pth")


@pytest.mark.parametrize("name", [5, None, b"x", ("a",), 1.5])
def test_names_that_are_no_texts(name: object, state: State, tmp_path: Path) -> None:
    torch.save({**state, name: torch.ones(1)}, tmp_path / "m.pth")
    assert "no texts" in refusal(tmp_path / "m.pth")


def test_a_small_file_of_large_tensors(tmp_path: Path) -> None:
    arch = dataclasses.replace(TINY, name="large", mlp_ratio=2700.0, depth=30, global_attn_indexes=(1,))
    shapes = build_empty(ModelSpec.dense(arch)).state_dict()  # 0.4 GB of float32
    torch.save({name: torch.zeros(1).expand(tensor.shape) for name, tensor in shapes.items()}, tmp_path / "m.pth")
    one = torch.zeros(max(tensor.numel() for tensor in shapes.values()))
    torch.save({name: one[: t.numel()].view(t.shape) for name, t in shapes.items()}, tmp_path / "shared.pth")
    for name, words in {"m.pth": "expanded", "shared.pth": "share their numbers"}.items():
        with addresses_of_at_most(2**27), pytest.raises(MedcoreError, match=words):
            load(tmp_path / name, arch)


class Call:
    """Pickled, a call of `function` by whoever unpickles it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [Call(torch.Tensor, 10**10), Call(bytearray, 10**10)])
def test_constructors_that_take_any_size_are_not_called(call: Call, zipped: bool, state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "x": call}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    with addresses_of_at_most(2**30):
        assert "pickled objects" in refusal(tmp_path / "m.pth")


def test_storages_without_an_archive_may_not_grow(tmp_path: Path) -> None:
    """`torch.load` makes such a storage as large as a tensor says, with whatever is in memory there."""
    from torch._utils import _rebuild_tensor_v2

    class Grown:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> tuple[Any, ...]:
            storage = self.tensor._typed_storage()
            return _rebuild_tensor_v2, (storage, 0, (10**8,), (1,), False, {})

    torch.save({"a": Grown(torch.zeros(2))}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    message = refusal(tmp_path / "m.pth")
    assert "larger than the file" in message or "not a checkpoint" in message


def test_archives_that_are_compressed_or_ambiguous(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "compressed" in refusal(tmp_path / "small.pth")
    with zipfile.ZipFile(tmp_path / "twice.pth", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("m/data.pkl", pickle.dumps({}))
    assert "twice" in refusal(tmp_path / "twice.pth")


def test_programs_of_torchscript_are_not_run(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(name, pickle.dumps(0, protocol=2))
    assert "TorchScript" in refusal(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pixel_std", [1e-300] * 3),
        ("img_size", 16384),
        ("mlp_ratio", 1e5),
        ("mlp_ratio", 5000.0),
        ("name", "two\nlines"),
        ("name", "\x1b[31mred"),
        ("name", "long" * 100),
        ("name", None),
        ("depth", True),
        ("embed_dim", 10**30),
        ("window_size", float("inf")),
        ("pixel_mean", [float("nan")] * 3),
    ],
)
def test_structures_that_no_model_has(field: str, value: object) -> None:
    with pytest.raises(MedcoreError) as caught:
        architecture_from({**TINY.to_dict(), field: value}, "m.json")
    message = str(caught.value)
    assert message.startswith("m.json") and field in message and message.isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", [float("inf"), 2, 1, 1]),
        ("heads", [1.9, 2, 1, 1]),
        ("heads", [True, 2, 1, 1]),
        ("heads", "1211"),
        ("heads", [4, 2, 1, 1]),
        ("channels", None),
        ("arch", {**TINY.to_dict(), "img_size": 16 * 2**40}),
        ("arch", {**TINY.to_dict(), "embed_dim": 16 * 10**18}),
        ("arch", {**TINY.to_dict(), "decoder": {"depth": 10**9}}),
        ("arch", {**TINY.to_dict(), "decoder": {"iou_head_depth": 10**9}}),
        ("arch", {**TINY.to_dict(), "kind": ["x"]}),
        ("arch", {**TINY.to_dict(), "\x1b[2J\n": 1}),
        ("deep", "[" * 100_000),
        ("digits", "[" + "9" * 5000 + "]"),
    ],
)
def test_structures_in_files(field: str, value: Any, tmp_path: Path) -> None:
    spec = {**ModelSpec.dense(TINY).to_dict(), field: value}
    text = value if field in ("deep", "digits") else json.dumps(spec)
    metadata = {"format": "medcore-1", "spec": text}
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata=metadata)
    assert refusal(tmp_path / "m.safetensors").isprintable()


def test_a_dense_model_that_no_memory_holds_is_not_built() -> None:
    arch = dataclasses.replace(TINY, embed_dim=2**16, num_heads=1, mlp_ratio=1.0, depth=32)
    with pytest.raises(MedcoreError, match="GB"):
        dense_of(arch)


def test_a_storage_that_a_pickle_makes_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02ctorch.storage\nUntypedStorage\nJ\x80\xc3\xc9\x01\x85R.")
    assert "UntypedStorage" in refusal(file)
