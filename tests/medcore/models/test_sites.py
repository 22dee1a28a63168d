"""Families, sites and costs as data."""

from __future__ import annotations

import dataclasses

import pytest

from medcore.models.cost import cost
from medcore.models.sites import Cost, Family, Site, TensorSlice, Watch, by_family, from_families
from medcore.models.spec import Architecture, ModelSpec
from medcore.models.vit.families import CHANNELS, HEADS
from tests.support.helpers import TINY
from tests.support.hiera import DEEP
from tests.support.toy.samples import TOY, random_spec

ARCHITECTURES = pytest.mark.parametrize("arch", [TINY, TOY, DEEP], ids=["vit", "toy", "hiera"])


def test_a_family_names_its_recovery_after_its_stage() -> None:
    assert (HEADS.recovery, CHANNELS.recovery) == ("heads_recovery", "mlp_recovery")


def test_a_sites_name_tells_it_from_all_others() -> None:
    family = Family("heads", "Heads", "head", stage="heads")
    site = Site(family, 3, 2, (TensorSlice("t", axis=0),), Watch("m"), Cost(1, 2, 3))
    assert site.name == "heads/03"
    assert dataclasses.replace(site, block=11, suffix="b").name == "heads/11b"


@ARCHITECTURES
def test_sites_have_names_of_their_own_and_lie_within_blocks(arch: Architecture) -> None:
    names = [site.name for site in arch.sites]
    assert len(set(names)) == len(names)
    order = [arch.families.index(site.family) for site in arch.sites]
    assert order == sorted(order)
    for site in arch.sites:
        assert 0 <= site.block < len(arch.blocks) and site.width >= 1
        path = arch.blocks[site.block].path
        assert all(part.name.startswith(f"{path}.") for part in site.tensors)
        assert any(part.output for part in site.tensors)
        if site.within is not None:
            owner = arch.sites[names.index(site.within)]
            assert owner.width == 1 and names.index(owner.name) < names.index(site.name)


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 30) * 2 == Cost(21, 42, 63)
    assert Cost(1, 2, 3) * 0 == Cost(0, 0, 0)


@ARCHITECTURES
def test_cost_is_the_fixed_part_and_a_price_for_each_group(arch: Architecture) -> None:
    empty = ModelSpec(arch, (0,) * len(arch.sites))
    assert cost(empty) == arch.fixed
    dense = cost(ModelSpec.dense(arch))
    for name in ("encoder_params", "flops", "flops_paper"):
        groups = sum(site.width * getattr(site.cost, name) for site in arch.sites)
        assert getattr(dense, name) == getattr(arch.fixed, name) + groups


@pytest.mark.parametrize("seed", range(5))
def test_values_by_family_and_back(seed: int) -> None:
    widths = random_spec(seed).widths
    sorted_values = by_family(TOY.sites, widths)
    assert list(sorted_values) == ["blocks", "toy_heads", "stem", "hidden"]
    assert [len(values) for values in sorted_values.values()] == [3, 3, 1, 3]
    assert tuple(from_families(TOY.sites, sorted_values)) == widths


def test_sites_may_lie_in_any_order() -> None:
    """Families and sites keep the order in which they come."""
    sites = [TOY.sites[index] for index in (7, 0, 8, 1, 6)]
    assert by_family(sites, "abcde") == {"hidden": ["a", "c"], "blocks": ["b", "d"], "stem": ["e"]}
    assert from_families(sites, {"blocks": "bd", "hidden": "ac", "stem": "e", "more": ""}) == list("abcde")


def test_values_that_do_not_fit_the_sites_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        by_family(TINY.sites, [1] * 7)
    values = by_family(TINY.sites, range(8))
    with pytest.raises(ValueError, match="fewer values than sites"):
        from_families(TINY.sites, values | {"heads": [1, 2, 3]})
    with pytest.raises(ValueError, match="more values than sites"):
        from_families(TINY.sites, values | {"heads": [1, 2, 3, 4, 5]})
    with pytest.raises(KeyError, match="channels"):
        from_families(TINY.sites, {"heads": [1, 2, 3, 4]})
