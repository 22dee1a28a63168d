"""Precision on disk: read from files cheaply, rounded with care, and the sizes that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcore.errors import CheckpointError
from medcore.models.checkpoint import load, save
from medcore.models.formats.precision import PRECISIONS, file_precision, in_precision, sizes
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, spec_of

SPEC = spec_of(TINY, (2, 0, 3, 1), (48, 5, 0, 1))


@pytest.fixture(scope="module")
def model() -> MedSam:
    torch.manual_seed(3)
    return build(SPEC)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_written_in_a_precision_is_of_that_size_and_read_as_float32(
    precision: str, model: MedSam, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    save(path, in_precision(model, precision))
    assert file_precision(path) == precision
    found, numbers = sizes(SPEC, precision), sum(tensor.numel() for tensor in model.state_dict().values())
    assert found.model == numbers * PRECISIONS[precision].itemsize
    assert found.model < path.stat().st_size < found.model + 40_000
    for name, tensor in load(path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].to(PRECISIONS[precision]).float())
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


def test_what_is_never_pruned_is_what_stays_when_every_group_is_gone(model: MedSam) -> None:
    empty = ModelSpec(TINY, tuple(0 for _ in TINY.sites))
    found = sizes(SPEC)
    assert sum(found.unpruned.values()) == sizes(empty).model == found.dense - found.prunable
    decoder = sum(value.numel() for key, value in model.state_dict().items() if key.startswith("mask_decoder."))
    assert found.unpruned["decoder"] == 4 * decoder and set(found.unpruned) >= {"neck", "prompt encoder"}
    assert sizes(ModelSpec.dense(TINY)).model == found.dense


@pytest.mark.parametrize(
    ("types", "precision"),
    [
        ((torch.float16, torch.float16), "float16"),
        ((torch.bfloat16, torch.float32), "bfloat16"),
        ((torch.float64, torch.float32), "float32"),
    ],
)
def test_most_numbers_decide_in_files_of_any_kind(
    types: tuple[torch.dtype, torch.dtype], precision: str, tmp_path: Path
) -> None:
    state = {"a": torch.zeros(5, 3, dtype=types[0]), "b": torch.zeros(4, dtype=types[1]), "n": torch.tensor(3)}
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    save_file(state, tmp_path / "m.safetensors")
    assert file_precision(tmp_path / "m.pth") == file_precision(tmp_path / "m.safetensors") == precision


def test_numbers_beyond_the_range_are_refused_with_advice(model: MedSam) -> None:
    wide = build(SPEC)
    name, parameter = next(iter(wide.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = 7e4
    with pytest.raises(CheckpointError, match=rf"float16.*{name}.*--dtype float32"):
        in_precision(wide, "float16")
    assert in_precision(wide, "bfloat16").state_dict()[name].isfinite().all()
