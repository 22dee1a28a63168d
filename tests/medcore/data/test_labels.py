"""Label maps: which values are the object, what is ignored, and which objects are samples."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label as components

from medcore.data.labels import AS_THE_FILE_SAYS, LabelMap, UnclearMask, objects_of, warnings_of
from medcore.data.mask_rules import MaskRules

VALUES = np.array([[0, 1, 1, 0], [2, 0, 0, 255], [2, 2, 7, 255]], np.uint8)


def whole(values: np.ndarray, rules: MaskRules = AS_THE_FILE_SAYS, **more: object) -> np.ndarray:
    (target,) = objects_of(LabelMap(values, **more), rules).targets
    return target.mask


def test_labels_and_ignored_values() -> None:
    assert (whole(VALUES, MaskRules(labels="any")) == (VALUES != 0)).all()
    assert (whole(VALUES, MaskRules(labels=(1, 7))) == np.isin(VALUES, (1, 7))).all()
    (target,) = objects_of(LabelMap(VALUES), MaskRules(labels="any", ignore=(255, 7))).targets
    assert (target.mask == np.isin(VALUES, (1, 2))).all()
    assert (target.void == np.isin(VALUES, (7, 255))).all()
    assert objects_of(LabelMap(VALUES), MaskRules(labels="any", ignore=(9,))).targets[0].void is None
    two = np.where(VALUES == 255, 255, VALUES == 1)
    assert (whole(two, MaskRules(ignore=(255,))) == (VALUES == 1)).all()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (VALUES, "0, 1, 2, 7, 255"),
        (np.array([[1, 2]]), "1, 2"),
        (np.array([[0, -1]]), "-1, 0"),
        (np.arange(100).reshape(10, 10), "0, 1, 2, 3, 4, 5, 6, 7 and 92 more"),
        (np.array([[0.0, 1.0, 2.0]]), "0, 1, 2"),
        (np.array([[-0.5, 1.5]]), "-0.5, 1.5"),
    ],
)
def test_a_label_map_without_rules_is_refused_with_its_values(values: np.ndarray, named: str) -> None:
    with pytest.raises(UnclearMask, match=rf"values {named};.*data\.labels.*data\.ignore"):
        whole(values)
    with pytest.raises(UnclearMask):
        objects_of(LabelMap(values), MaskRules(objects="components"))


def test_fractions_are_cut_at_half_and_are_no_labels() -> None:
    soft = np.array([[0.01, 0.49, 0.51, 0.98]], np.float32)
    for rules in (AS_THE_FILE_SAYS, MaskRules(labels="any"), MaskRules(labels=(1,)), MaskRules(objects="labels")):
        assert whole(soft, rules, full=1).tolist() == [[False, False, True, True]]
    assert whole(np.array([[0.0, 1.0]]), full=1).tolist() == [[False, True]]


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_scikit_image(seed: int) -> None:
    mask = np.random.default_rng(seed).random((24, 31)) < 0.25
    expected = components(mask, connectivity=2)
    found = objects_of(LabelMap(mask.astype(np.uint8)), MaskRules(objects="components", smallest=3))
    sizes = {number: (expected == number).sum() for number in range(1, expected.max() + 1)}
    assert len(found.targets) == sum(size >= 3 for size in sizes.values())
    assert len(found.small) == sum(size < 3 for size in sizes.values())
    for target in found.targets:
        (number,) = np.unique(expected[target.mask])
        assert (target.mask == (expected == number)).all()
    names = [target.suffix for target in found.targets] + found.small
    assert sorted(names, key=lambda name: int(name[1:])) == [f"#{number}" for number in sizes]


def test_each_label_is_an_object() -> None:
    found = objects_of(LabelMap(VALUES), MaskRules(objects="labels", ignore=(255,), smallest=2))
    assert [target.suffix for target in found.targets] == ["#1", "#2"] and found.small == ["#7"]
    for target, label in zip(found.targets, (1, 2), strict=True):
        assert (target.mask == (label == VALUES)).all() and (target.void == (VALUES == 255)).all()
    some = objects_of(LabelMap(VALUES), MaskRules(objects="labels", labels=(2, 7)))
    assert [target.suffix for target in some.targets] == ["#2", "#7"]


def test_a_mask_of_dust_is_refused_before_it_fills_the_memory() -> None:
    dust = np.zeros((100, 100), np.uint8)
    dust[::2, ::2] = 1
    with pytest.raises(UnclearMask, match=r"2500 objects.*smallest_object"):
        objects_of(LabelMap(dust), MaskRules(objects="components"))
    assert len(objects_of(LabelMap(dust), MaskRules(objects="components", smallest=2)).small) == 2500


def test_warnings_need_more_than_half_of_the_masks() -> None:
    normal = np.zeros((20, 20), np.bool_)
    normal[5:9, 5:9] = True
    framed = ~normal
    framed[5:12, 5:12] = False
    full = np.ones((20, 20), np.bool_)
    assert warnings_of([normal] * 3 + [full] * 2) == [] and warnings_of([]) == []
    assert "95 %" in warnings_of([normal] + [full] * 2)[0]
    assert "borders" in warnings_of([normal] + [framed] * 2)[0]
    assert "size" in warnings_of([normal], of_other_size=2)[0]


def test_labels_that_are_objects_are_never_cut_at_half() -> None:
    values = np.repeat(np.repeat(np.array([[0, 1, 2], [3, 253, 254], [255, 0, 0]]), 20, axis=0), 20, axis=1)
    found = objects_of(LabelMap(values.astype(np.uint8)), MaskRules(objects="labels")).targets
    assert [target.suffix for target in found] == ["#1", "#2", "#3", "#253", "#254", "#255"]
