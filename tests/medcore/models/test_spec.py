"""Specs as text: valid ones survive a round trip, invalid ones raise a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medcore.errors import CheckpointError, MedcoreError
from medcore.models.architectures import (
    architecture_from,
    resolve_architecture,
    spec_from,
    spec_from_json,
)
from medcore.models.sam import build
from medcore.models.sites import Site
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.models.vit.families import HEADS
from tests.support.helpers import TINY, spec_of
from tests.support.toy.samples import TOY


def test_json_round_trip() -> None:
    spec = spec_of(TINY, (3, 0, 1, 2), (48, 1, 0, 7))
    assert spec_from_json(spec.to_json()) == spec
    assert not spec.is_dense and ModelSpec.dense(TINY).is_dense


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda sites: sites[1:] + sites[:1], "list the sites family by family"),
        (lambda sites: [site for pair in zip(sites[:4], sites[4:], strict=True) for site in pair], "family by family"),
        (lambda sites: sites[:4], "channels has no site"),
        (lambda sites: [*sites, TOY.sites[0]], f"list {TOY.sites[0].family.name} in its families"),
    ],
)
def test_architectures_list_their_sites_in_order(
    order: Callable[[Sequence[Site]], Sequence[Site]], message: str
) -> None:
    class Reordered(SamVit):
        @property
        def encoder_sites(self) -> tuple[Site, ...]:
            return tuple(order(super().encoder_sites))

    arch = Reordered(**{field.name: getattr(TINY, field.name) for field in fields(TINY)})
    with pytest.raises(CheckpointError, match=message):
        ModelSpec(arch, arch.dense_widths)


def test_families_do_not_share_a_stage() -> None:
    class Merged(SamVit):
        encoder_families = tuple(replace(family, stage="all") for family in TINY.families)

    arch = Merged(**{field.name: getattr(TINY, field.name) for field in fields(TINY)})
    with pytest.raises(CheckpointError, match="a stage of its own"):
        ModelSpec(arch, arch.dense_widths)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_architectures_resolve(name: str) -> None:
    arch = resolve_architecture(name)
    assert isinstance(arch, SamVit)
    assert (arch.img_size, arch.grid, arch.head_dim) == (1024, 64, 64 if name != "vit_h" else 80)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 0},
        {"patch_size": 7},
        {"global_attn_indexes": 5},
        {"global_attn_indexes": [99]},
        {"embed_dim": "wide"},
        {"mlp_ratio": -1},
        {"decoder": 3},
        {"decoder": {"depth": "two"}},
        {"unknown": 1},
        {"num_heads": 7},
        {"num_heads": True},
        {"name": ["tiny"]},
        {"mlp_ratio": float("inf")},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": 0.01},
        {"mlp_ratio": 1e308},
        {"pixel_mean": [0.5]},
        {"pixel_mean": [0, 0, float("nan")]},
        {"pixel_std": [1, 1]},
        {"pixel_std": [1, 0, 1]},
        {"pixel_std": [1, float("inf"), 1]},
        {"global_attn_indexes": [1.5]},
        {"global_attn_indexes": [-1]},
        {"out_chans": 36},
        {"decoder": {"num_heads": 3}},
        {"decoder": {"num_heads": 32}},
    ],
)
def test_wrong_architecture_file_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(TINY.to_dict() | change))
    with pytest.raises(MedcoreError) as caught:
        resolve_architecture(path)
    message = str(caught.value)
    assert "\n" not in message and next(iter(change)) in message


def test_missing_field_and_unknown_name() -> None:
    fields = TINY.to_dict()
    del fields["depth"]
    with pytest.raises(MedcoreError, match="depth"):
        architecture_from(fields)
    with pytest.raises(MedcoreError, match="vit_x"):
        resolve_architecture("vit_x")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arch": 1, "heads": [], "channels": []}'])
def test_wrong_spec_text(text: str) -> None:
    with pytest.raises(MedcoreError):
        spec_from_json(text)


@pytest.mark.parametrize(("heads", "channels"), [((3,) * 3, (1,) * 4), ((4,) * 4, (1,) * 4), ((1,) * 4, (-1,) * 4)])
def test_counts_outside_the_architecture(heads: tuple[int, ...], channels: tuple[int, ...]) -> None:
    with pytest.raises(MedcoreError):
        spec_of(TINY, heads, channels)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((3,) * 7, "7 widths for 8 sites"),
        ((3,) * 9, "9 widths for 8 sites"),
        ((), "0 widths for 8 sites"),
        ((3, 4, 3, 3, 48, 48, 48, 48), r"width of heads/01 must lie in 0\.\.3, got 4"),
        ((3, 3, 3, 3, 48, 48, 48, -1), r"width of channels/03 must lie in 0\.\.48, got -1"),
    ],
)
def test_wrong_widths_are_named(widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(MedcoreError, match=message):
        ModelSpec(TINY, widths)


def test_budgets_by_family() -> None:
    spec = spec_of(TINY, (3, 0, 1, 2), (48, 1, 0, 7))
    assert spec.budget == {"heads": [3, 0, 1, 2], "channels": [48, 1, 0, 7]}
    assert ModelSpec.of(TINY, spec.budget) == ModelSpec.of(TINY, dict(reversed(spec.budget.items()))) == spec
    assert spec.family("channels") == (48, 1, 0, 7)
    assert list(spec.to_dict()) == ["arch", "heads", "channels"] and "kind" not in spec.to_dict()["arch"]
    with pytest.raises(KeyError, match="tails"):
        spec.family("tails")
    with pytest.raises(KeyError, match="tails"):
        TINY.family("tails")
    assert TINY.family("heads") is HEADS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": None}, "here: field 'heads' is missing"),
        ({"heads": [1] * 3}, "here: 3 heads counts for 4 sites"),
        ({"channels": [1] * 5}, "here: 5 channels counts for 4 sites"),
        ({"channels": [1, 2, 3, 49]}, "width of channels/03"),
    ],
)
def test_budgets_that_lack_something(change: dict[str, Any], message: str) -> None:
    budget = {"heads": [1] * 4, "channels": [1] * 4} | change
    with pytest.raises(MedcoreError, match=message):
        ModelSpec.of(TINY, {name: widths for name, widths in budget.items() if widths is not None}, "here")


def test_a_site_within_a_group_that_is_gone_keeps_nothing() -> None:
    spec = ModelSpec(TOY, (1, 0, 1, 2, 4, 3, 10, 24, 48, 16))
    assert spec.widths == (1, 0, 1, 2, 0, 3, 10, 24, 0, 16)
    assert spec == ModelSpec(TOY, (1, 0, 1, 2, 1, 3, 10, 24, 7, 16)) and not spec.is_dense
    # what is wrong is wrong there too
    with pytest.raises(MedcoreError, match="toy_heads/02"):
        ModelSpec(TOY, (1, 0, 1, 2, 5, 3, 10, 24, 48, 16))


@pytest.mark.parametrize(("out_chans", "heads"), [(8, 1), (8, 4), (24, 12), (48, 8), (40, 4)])
def test_widths_that_are_accepted_make_a_decoder_that_runs(out_chans: int, heads: int) -> None:
    arch = replace(TINY, out_chans=out_chans, decoder=replace(TINY.decoder, num_heads=heads))
    with torch.no_grad():
        logits = build(ModelSpec.dense(arch)).segment(torch.rand(1, 3, 64, 64), torch.tensor([[4.0, 4, 30, 40]]))
    assert logits.shape == (1, 1, arch.low_res, arch.low_res) and logits.isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 10**6), ("img_size", 16 * 10**9), ("embed_dim", 12 * 10**12), ("mlp_ratio", 1e9)],
)
def test_dimensions_of_no_real_model_are_refused_before_anything_is_built(field: str, value: float) -> None:
    with pytest.raises(CheckpointError, match=f"{field} must be at most"):
        architecture_from(TINY.to_dict() | {field: value})
    with pytest.raises(CheckpointError, match="depth must be at most"):
        architecture_from(TINY.to_dict() | {"decoder": {"depth": 20_000}})


@pytest.mark.parametrize(
    "widths", [[2.5, 1, 1, 1], [True, 1, 1, 1], ["3", 1, 1, 1], "1111", {"1": 1}, [float("inf")] * 4]
)
def test_widths_are_whole_numbers(widths: object) -> None:
    fields = ModelSpec.dense(TINY).to_dict() | {"heads": widths}
    with pytest.raises(CheckpointError, match="heads must be a list of whole numbers"):
        spec_from(fields)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"arch": ' + "1" * 5000 + "}"])
def test_json_that_no_writer_made_is_one_line(text: str) -> None:
    with pytest.raises(CheckpointError, match="not JSON"):
        spec_from_json(text)
