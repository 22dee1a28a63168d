"""Random edits of checkpoints give a clear error or a model with finite numbers, never a traceback."""

from __future__ import annotations

import copy
import json
import struct
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, save
from medcore.models.export import write_huggingface
from medcore.models.sam import build
from tests.support.helpers import TINY, spec_of

#: Values at the edges of what JSON, pickles and tensors hold.
VALUES = st.one_of(
    st.sampled_from([None, True, 0, -1, 1, 2, 8, 2**16, 2**31, 2**63, 10**30, 0.0, 1e-300, 1e300, float("nan")]),
    st.sampled_from(
        [float("inf"), "", "x", "\x1b[2J\n", "F16", "BF16", "F8_E4M3", "I64", [], {}, [1, 2], [[]], {"a": 1}]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)
SEED = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
MANY = settings(SEED, max_examples=2000, derandomize=False)

Edit = tuple[list[int], str, Any]
EDITS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=6),
        st.sampled_from(["set", "drop", "add", "double"]),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)


@lru_cache
def files() -> dict[str, Any]:
    """A file of ours, a folder of transformers, and a training checkpoint."""
    torch.manual_seed(0)
    model = build(spec_of(TINY, (2, 0, 3, 1), (48, 5, 0, 1)))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        save(place / "m.safetensors", model, {"row": "{}"})
        write_huggingface(place, build(spec_of(TINY, (3,) * 4, (48,) * 4)))
        whole = (place / "m.safetensors").read_bytes()
        return {
            "own": whole,
            "config": json.loads((place / "config.json").read_text()),
            "weights": (place / "model.safetensors").read_bytes(),
            "pickled": {
                "format_version": 1,
                "model_type": "vit_b",
                "state_dict": build(spec_of(TINY, (3,) * 4, (48,) * 4)).state_dict(),
                "head_mask": torch.ones(12),
                "neuron_mask": None,
                "compact_manifest": None,
            },
        }


def changed(root: Any, edits: list[Edit]) -> Any:
    """Apply edits. Each walks down by its numbers and changes what it finds there."""
    for path, action, wanted in edits:
        # a copy, because a later edit may walk into a value and change it
        value = copy.deepcopy(wanted)
        owner, key, here = None, None, root
        for number in path:
            keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
            if not keys:
                break
            owner, key = here, keys[number % len(keys)]
            here = owner[key]
        if owner is None:
            return value
        if action == "drop":
            del owner[key]
        elif action == "add" and isinstance(owner, dict):
            owner[str(value)] = here
        elif action == "double" and isinstance(here, (int, float)) and abs(here) < 2**62:
            owner[key] = here * 2
        else:
            owner[key] = value
    return root


def assert_sound(action: Callable[[], Any], *errors: type[Exception]) -> None:
    """The action ends in one line of these errors, or in a model of finite numbers."""
    try:
        model = action()
    except errors as error:
        assert "\n" not in str(error) and "\x1b" not in str(error) and len(str(error)) < 800
        return
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


def load_alone(path: Path) -> Any:
    """Load with the script that comes with exports."""
    from medcore.models.standalone import load_pruned  # imports torchvision, so only where it is called

    return load_pruned.load(path)


def assert_edited_own_is_sound(edits: list[Edit], inside: bool) -> None:
    whole = files()["own"]
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    if inside:
        spec = changed(json.loads(header["__metadata__"]["spec"]), edits)
        header["__metadata__"]["spec"] = json.dumps(spec)
    else:
        header = changed(header, edits)
    text = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        assert_sound(lambda: load(path), MedcoreError)
        assert_sound(lambda: load_alone(path), ValueError)


def assert_edited_bytes_is_sound(edits: list[Edit]) -> None:
    whole = bytearray(files()["own"])
    for path, action, _ in edits:
        for number in path:
            place = number % (200 if action == "set" else len(whole))
            if action == "drop":
                del whole[place : place + 1 + number % 9]
            else:
                whole[place] ^= 1 + number % 255
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m"
        path.write_bytes(whole)
        assert_sound(lambda: load(path, TINY), MedcoreError)
        assert_sound(lambda: load_alone(path), ValueError)


def assert_edited_pickled_is_sound(edits: list[Edit], zipped: bool) -> None:
    content = changed(copy.deepcopy(dict(files()["pickled"])), edits)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert_sound(lambda: load(path, TINY), MedcoreError)
        whole = bytearray(path.read_bytes())
        for places, _, _ in edits:
            whole[places[0] % min(2000 if zipped else len(whole), len(whole))] ^= 1 + places[-1] % 255
        path.write_bytes(whole)
        assert_sound(lambda: load(path, TINY), MedcoreError)


def assert_edited_config_is_sound(edits: list[Edit]) -> None:
    config = changed(copy.deepcopy(files()["config"]), edits)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "model.safetensors").write_bytes(files()["weights"])
        (place / "config.json").write_text(json.dumps(config))
        assert_sound(lambda: load(place), MedcoreError)


@SEED
@given(edits=EDITS, inside=st.booleans())
def test_structure_and_header(edits: list[Edit], inside: bool) -> None:
    assert_edited_own_is_sound(edits, inside)


@SEED
@given(edits=EDITS)
def test_bytes(edits: list[Edit]) -> None:
    assert_edited_bytes_is_sound(edits)


@SEED
@given(edits=EDITS, zipped=st.booleans())
def test_files_of_torch_save(edits: list[Edit], zipped: bool) -> None:
    assert_edited_pickled_is_sound(edits, zipped)


@SEED
@given(edits=EDITS)
def test_configurations_of_transformers(edits: list[Edit]) -> None:
    assert_edited_config_is_sound(edits)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(edits=EDITS, kind=st.integers(0, 5))
def test_many_edits(edits: list[Edit], kind: int) -> None:
    (
        lambda: assert_edited_own_is_sound(edits, True),
        lambda: assert_edited_own_is_sound(edits, False),
        lambda: assert_edited_bytes_is_sound(edits),
        lambda: assert_edited_pickled_is_sound(edits, True),
        lambda: assert_edited_pickled_is_sound(edits, False),
        lambda: assert_edited_config_is_sound(edits),
    )[kind]()
