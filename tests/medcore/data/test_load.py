"""Folders, files, parts and arrays: every rule that decides which pixels a model sees."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcore.data.load import (
    ImageSet,
    box_of,
    jitter_boxes,
    list_folder,
    load_image_set,
    read_image,
    read_mask,
    read_splits,
    to_square,
)
from medcore.data.splits import make_parts, natural_key, saved_file
from medcore.errors import MedcoreError
from tests.support.helpers import shared_dir


def _noise(seed: int, height: int = 40, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _blob(height: int = 40, width: int = 30) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 4 : height // 2, width // 3 : width // 2] = 255
    return mask


def _folder(root: Path, names: list[str], **size: int) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for seed, name in enumerate(names):
        Image.fromarray(_noise(seed, **size)).save(root / "images" / f"{name}.png")
        Image.fromarray(_blob(**size)).save(root / "masks" / f"{name}.png")
    return root


@pytest.mark.parametrize("image_ending", ["png", "jpg", "JPEG", "bmp", "tif", "webp"])
@pytest.mark.parametrize("mask_ending", ["png", "jpg", "bmp"])
def test_endings_may_differ(tmp_path: Path, image_ending: str, mask_ending: str) -> None:
    root = _folder(tmp_path / "set", [])
    Image.fromarray(_noise(0)).save(root / "images" / f"a.b.{image_ending}")
    Image.fromarray(_blob()).save(root / "masks" / f"a.b.{mask_ending}")
    images, skipped = load_image_set([root], "all", 32)
    assert (images.names, images.datasets, skipped) == (["a.b"], ["set"], [])
    assert images.truths[0].shape == (40, 30) and images.truths[0].sum() == (_blob() > 0).sum()


def test_image_modes_become_rgb(tmp_path: Path) -> None:
    pixels = _noise(3)
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (np.asarray(read_image(tmp_path / "grey.png")) == grey[..., None]).all()
    alpha = np.concatenate([pixels, np.zeros_like(grey)[..., None]], axis=2)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert (np.asarray(read_image(tmp_path / "alpha.png")) == pixels).all()
    deep = np.linspace(1000, 5000, 1200).reshape(40, 30)
    for name, values in (("deep.png", deep.astype(np.uint16)), ("deep.tif", deep.astype(np.float32))):
        Image.fromarray(values).save(tmp_path / name)
        expected = np.rint((values.astype(float) - 1000) / 4000 * 255)
        assert np.abs(np.asarray(read_image(tmp_path / name))[..., 1] - expected).max() <= 1
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="not finite"):
        read_image(tmp_path / "nan.tif")


def test_mask_threshold_in_every_depth(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    one = (ramp > 200).astype(np.uint8)
    files = {
        "grey.png": (ramp, ramp > 127),
        "colour.png": (np.stack([ramp * 0, ramp, ramp * 0], axis=2), ramp > 127),
        "alpha.png": (np.stack([ramp, ramp, ramp, ramp * 0], axis=2), ramp > 127),
        "bool.png": (ramp > 9, ramp > 9),
        "zero_one.png": (one, one > 0),
        "deep.png": (ramp.astype(np.uint16) * 257, ramp > 127),
        "deep_small.png": (ramp.astype(np.uint16), ramp > 127),
        "deep_one.png": (one.astype(np.uint16), one > 0),
        "float.tif": (one.astype(np.float32), one > 0),
        "empty.png": (ramp * 0, ramp < 0),
    }
    for name, (values, expected) in files.items():
        Image.fromarray(values).save(tmp_path / name)
        assert (read_mask(tmp_path / name) == expected).all(), name
    Image.fromarray(one).save(tmp_path / "noise.jpg", quality=100)
    assert not read_mask(tmp_path / "noise.jpg").any()  # compression noise around 0 is not foreground


def test_exif_orientation_is_applied_to_both(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = _folder(tmp_path / "set", [])
    Image.fromarray(_noise(0)).save(root / "images" / "a.jpg", exif=exif)
    Image.fromarray(_blob(30, 40)).save(root / "masks" / "a.png")
    images, _ = load_image_set([root], "all", 32)
    assert images.truths[0].shape == (30, 40)


def test_everything_unusable_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", ["good", "torn", "lost", "alone", "empty", "wide", "text", "dot", "bad_mask"])
    torn = root / "images" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:900])
    (root / "images" / "lost.png").unlink()
    (root / "masks" / "alone.png").unlink()
    Image.fromarray(_blob() * 0).save(root / "masks" / "empty.png")
    Image.fromarray(_blob(40, 31)).save(root / "masks" / "wide.png")
    (root / "images" / "text.png").write_text("no image")
    dot = _blob(400, 400) * 0
    dot[1, 1] = 255
    Image.fromarray(_noise(0, 400, 400)).save(root / "images" / "dot.png")
    Image.fromarray(dot).save(root / "masks" / "dot.png")
    (root / "masks" / "bad_mask.png").write_bytes(b"")
    (root / "images" / "notes.txt").write_text("x")
    (root / "images" / ".DS_Store").write_text("x")
    Image.fromarray(_noise(9)).save(root / "images" / "good.bmp")
    names = ["good.png", "torn", "lost", "alone", "empty", "wide", "text", "dot", "bad_mask", "ghost.jpg"]
    (root / "splits.json").write_text(json.dumps({"val": names}))
    images, skipped = load_image_set([root], "val", 32)
    assert images.names == ["good"]
    reasons = {entry.path.name: entry.reason for entry in skipped}
    expected = {
        "torn.png": "unreadable image",
        "lost.png": "mask without image",
        "alone.png": "image without mask",
        "empty.png": "mask without foreground",
        "wide.png": "31x40 for an image of 30x40",
        "text.png": "unreadable image",
        "dot.png": "vanishes at 32 pixels",
        "bad_mask.png": "unreadable mask",
        "notes.txt": "not an image file",
        "good.png": "same name as good.bmp",
        "ghost": "no such file",
    }
    assert reasons.keys() == expected.keys() and len(skipped) == len(expected)
    for name, words in expected.items():
        assert words in reasons[name] and "\n" not in reasons[name]


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL warns before it gives up
def test_no_truncation_or_damage_gets_through_as_a_crash(tmp_path: Path, ending: str) -> None:
    root = _folder(tmp_path / "set", ["good"])
    Image.fromarray(_noise(1)).save(tmp_path / f"whole.{ending}")
    whole = (tmp_path / f"whole.{ending}").read_bytes()
    rng = np.random.default_rng(0)
    for index in range(25):
        data = bytearray(whole[: int(rng.integers(1, len(whole)))] if index % 2 else whole)
        for _ in range(index % 5):
            data[rng.integers(0, min(len(data), 200))] = rng.integers(0, 256)
        (root / "images" / f"x{index}.{ending}").write_bytes(data)
        Image.fromarray(_blob()).save(root / "masks" / f"x{index}.png")
    images, skipped = load_image_set([root], "all", 16)
    assert len(images) + len(skipped) == 26 and "good" in images.names and len(skipped) >= 8


def test_nothing_left_and_wrong_places_are_one_line(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", ["a"])
    (root / "splits.json").write_text(json.dumps({"train": [], "val": ["b"]}))
    with pytest.raises(MedcoreError, match=r"no usable image in part 'val'.*no such file"):
        load_image_set([root], "val", 32)
    with pytest.raises(MedcoreError, match=r"no part 'tset'; known are all, train, val, val/report, val/search"):
        load_image_set([root], "tset", 32)
    with pytest.raises(MedcoreError, match="No such file"):
        load_image_set([tmp_path / "nowhere"], "val", 32)
    with pytest.raises(MedcoreError, match="no data folder"):
        load_image_set([], "val", 32)
    twin = _folder(tmp_path / "other" / "set", ["a"])
    with pytest.raises(MedcoreError, match="both data set 'set'"):
        load_image_set([root, twin], "all", 32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a readable splits file"),
        ('["a"]', "expected an object"),
        ('{"train": "a"}', "part 'train' is no list"),
        ('{"train": ["a.png"], "val": ["a"]}', "both 'train' and 'val'"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(MedcoreError, match=words) as caught:
        read_splits(tmp_path, ["a"])
    assert "splits.json" in str(caught.value) and "\n" not in str(caught.value)


def test_natural_order() -> None:
    assert sorted(["f10", "f2", "F2", "f", "2", "10", "f2a"], key=natural_key) == [
        *["2", "10"],
        *["F2", "f", "f2", "f2a", "f10"],
    ]


@pytest.mark.parametrize("count", [2, 3, 7, 50, 100, 399])
def test_made_parts_are_disjoint_complete_and_in_blocks(count: int) -> None:
    names = [f"frame{i}" for i in range(count)]
    for seed in range(4):
        parts = make_parts(names[::-1], {"train": 0.75, "val": 0.25}, seed)
        assert sorted(parts["train"] + parts["val"]) == sorted(names) and all(parts.values())
        assert parts == make_parts(names, {"train": 3, "val": 1}, seed)
        width = max(1, min(20, count // 4))
        assert abs(len(parts["val"]) - count / 4) <= width
        for block in range(0, count, width):
            assert len({name in parts["val"] for name in names[block : block + width]}) == 1
    assert make_parts([], {"train": 1, "val": 1}, 0) == {"train": [], "val": []}


def test_derived_halves_and_their_file(tmp_path: Path) -> None:
    names = [str(i) for i in range(160)]
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:60], "val": names[60:]}))
    parts = read_splits(tmp_path, names, seed=1, save_to=tmp_path / "kept" / "s.json").parts
    assert sorted(parts["val/search"] + parts["val/report"]) == sorted(names[60:])
    assert {len(parts["val/search"]), len(parts["val/report"])} == {40, 60}
    assert parts["all"] == names and parts["train"] == names[:60]
    again = read_splits(tmp_path, [*names, "new"], seed=2, save_to=tmp_path / "kept" / "s.json").parts
    assert again["val/search"] == parts["val/search"]
    assert any(read_splits(tmp_path, names, seed).parts["val/search"] != parts["val/search"] for seed in range(2, 6))
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["s.json"]
    own = {"train": ["1"], "val": ["2", "3"], "val/search": ["3"], "val/report": ["2"]}
    (tmp_path / "splits.json").write_text(json.dumps(own))
    assert read_splits(tmp_path, names).parts["val/search"] == ["3"]
    (tmp_path / "file").write_text("")
    (tmp_path / "splits.json").unlink()
    with pytest.raises(MedcoreError, match="cannot write the splits"):
        read_splits(tmp_path, names, save_to=tmp_path / "file" / "s.json")


@pytest.mark.parametrize("half", ["val/search", "val/report"])
@pytest.mark.parametrize("saved", [True, False])
def test_one_half_leaves_the_rest_of_val_to_the_other(half: str, saved: bool, tmp_path: Path) -> None:
    names = [str(i) for i in range(40)]
    save_to = tmp_path / "kept.json" if saved else None
    parts = {"train": names[:20], "val": names[20:], half: names[25:28]}
    (tmp_path / "splits.json").write_text(json.dumps(parts))
    splits = read_splits(tmp_path, names, save_to=save_to)
    (other,) = {"val/search", "val/report"} - {half}
    assert splits.parts[half] == names[25:28] and splits.parts[other] == [*names[20:25], *names[28:]]
    assert not splits.fleeting and splits.unassigned(half) == set()
    if save_to is not None:
        assert json.loads(save_to.read_text()) == {other: splits.parts[other]}


@pytest.mark.parametrize(
    ("manifest", "saved", "words"),
    [
        ({"train": ["1", "2"], "val": ["3"]}, {"val/search": ["2"], "val/report": ["3"]}, "'train' and 'val/search'"),
        ({"train": ["1"], "test": ["3"], "val": ["2"]}, {"val/report": ["3"]}, "'test' and 'val/report'"),
        ({"val": ["1", "2"], "val/search": ["1", "2"]}, {"val/report": ["2"]}, "'val/search' and 'val/report'"),
        ({"val": ["1"]}, {"train": ["1", "2"], "val/search": [], "val/report": ["1"]}, "'train' and 'val'"),
        ({"train": ["1"], "val": ["2"]}, {"val/search": ["2"], "val/report": ["3"]}, "'val/report' are not in 'val'"),
        ({"train": ["1"], "val": ["2"], "val/search": ["1"]}, None, "'train' and 'val/search'"),
        ({"val": ["2"], "val/search": ["4"], "val/report": []}, None, "'val/search' are not in 'val'"),
    ],
)
def test_parts_that_share_images_are_refused(
    manifest: dict[str, list[str]], saved: dict[str, list[str]] | None, words: str, tmp_path: Path
) -> None:
    own, kept = tmp_path / "splits.json", tmp_path / "kept.json"
    own.write_text(json.dumps(manifest))
    if saved is not None:
        kept.write_text(json.dumps(saved))
    before = None if saved is None else kept.read_bytes()
    with pytest.raises(MedcoreError) as caught:
        read_splits(tmp_path, ["1", "2", "3"], save_to=kept)
    message = str(caught.value)
    assert words in message and str(own) in message and "\n" not in message
    assert (f"delete {kept}" in message) == (saved is not None)
    assert before == (kept.read_bytes() if kept.is_file() else None)


def test_saved_parts_of_folders_with_one_name_stay_apart(tmp_path: Path) -> None:
    roots = [_folder(tmp_path / owner / "data", [f"{owner}{i}" for i in range(8)]) for owner in ("a", "b")]
    for root in roots:
        names = load_image_set([root], "val", 16, save_splits=tmp_path / "splits")[0].names
        assert names and all(name.startswith(root.parent.name) for name in names)
    assert saved_file(roots[0], tmp_path / "splits") == saved_file(
        roots[1].parent.parent / "a" / ".." / "a" / "data", tmp_path / "splits"
    )
    files = sorted(path.name for path in (tmp_path / "splits").iterdir())
    assert len(files) == 2 and all(re.fullmatch(r"data-[0-9a-f]{8}\.splits\.json", name) for name in files)


@pytest.mark.parametrize("own", [True, False])
def test_images_in_no_part_are_listed(own: bool, tmp_path: Path) -> None:
    root, place = _folder(tmp_path / "set", [f"f{i}" for i in range(16)]), tmp_path / "splits"
    if own:
        parts = make_parts([f"f{i}" for i in range(16)], {"train": 3, "val": 1}, 0)
        (root / "splits.json").write_text(json.dumps(parts))
    load_image_set([root], "val/search", 16, save_splits=place)
    for kind in ("images", "masks"):
        (root / kind / "new.png").write_bytes((root / kind / "f0.png").read_bytes())
    for part in ("train", "val", "val/search", "val/report"):
        images, skipped = load_image_set([root], part, 16, save_splits=place)
        assert "new" not in images.names
        (entry,) = skipped
        assert entry.path == root / "images" / "new.png" and entry.reason.startswith("in no part of ")
        assert str(saved_file(root, place)) in entry.reason and (str(root / "splits.json") in entry.reason) == own
    assert not load_image_set([root], "all", 16, save_splits=place)[1]
    if own:  # in val now, but the halves have been dealt out already
        parts["val"].append("new")
        (root / "splits.json").write_text(json.dumps(parts))
        assert load_image_set([root], "val", 16, save_splits=place)[1] == []
        (entry,) = load_image_set([root], "val/report", 16, save_splits=place)[1]
        assert entry.reason.startswith("in neither half of ")


def test_parts_dealt_out_for_one_call_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    roots, place = [_folder(tmp_path / name, [f"f{i}" for i in range(16)]) for name in ("one", "two")], tmp_path / "s"
    (roots[1] / "splits.json").write_text(json.dumps({"train": ["f0", "f1"], "val": [f"f{i}" for i in range(2, 16)]}))
    load_image_set(roots, "val/search", 16)
    (record,) = caplog.records
    assert "part 'val/search'" in record.getMessage() and all(str(root) in record.getMessage() for root in roots)
    load_image_set(roots, "val", 16)
    assert str(roots[0]) in caplog.messages[1] and str(roots[1]) not in caplog.messages[1]
    caplog.clear()
    load_image_set(roots[1:], "train", 16)
    load_image_set(roots, "all", 16)
    load_image_set(roots, "val/search", 16, save_splits=place)
    assert not caplog.records


def test_saved_parts_can_be_demanded(tmp_path: Path) -> None:
    root, place = _folder(tmp_path / "set", [f"f{i}" for i in range(16)]), tmp_path / "s"
    with pytest.raises(MedcoreError, match=r"no part 'val'; known are all; there are no saved splits .*/s/set-.*json"):
        load_image_set([root], "val", 16, save_splits=place, deal_splits=False)
    assert not place.exists()
    expected = load_image_set([root], "val", 16, split_seed=5, save_splits=place)[0].names
    assert load_image_set([root], "val", 16, save_splits=place, deal_splits=False)[0].names == expected


def test_an_empty_folder_saves_no_parts(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", [])
    with pytest.raises(MedcoreError, match="no usable image"):
        load_image_set([root], "val", 16, save_splits=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_preprocessing_is_min_max_and_a_no_op_at_size(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", ["a", "b"], height=32, width=32)
    images, _ = load_image_set([root], "all", 32)
    for index in range(2):
        raw = _noise(index, 32, 32).transpose(2, 0, 1)
        assert (images.images[index] == raw).all() and (images.masks[index] == (_blob(32, 32) > 0)).all()
        expected = (raw.astype(float) - raw.min()) / (float(raw.max()) - raw.min())
        np.testing.assert_allclose(images.tensor([index])[0].numpy(), expected, atol=1e-6)
    picture = Image.fromarray(_noise(5, 90, 70))
    assert to_square(picture, 32).shape == (3, 32, 32)


def test_boxes_agree_with_a_search_over_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 12), rng.integers(1, 12))) < 0.1
        mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
        pixels = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
        xs, ys = zip(*pixels, strict=True)
        assert box_of(mask).tolist() == [min(xs), min(ys), max(xs), max(ys)]
    with pytest.raises(ValueError, match="empty"):
        box_of(np.zeros((3, 3), dtype=bool))


def _random_set(count: int, size: int) -> ImageSet:
    rng = np.random.default_rng(count)
    masks = (rng.random((count, size, size)) < 0.5).astype(np.uint8)
    return ImageSet(
        rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8),
        masks,
        np.stack([box_of(m) for m in masks]),
        [m > 0 for m in masks],
        ["one" if i % 2 else "two" for i in range(count)],
        [f"n{i}" for i in range(count)],
    )


def test_image_set_works_on_read_only_memory() -> None:
    images = _random_set(6, 16)
    for array in (images.images, images.masks, images.boxes):
        array.flags.writeable = False
    part = images.subset([4, 1])
    assert part.names == ["n4", "n1"] and part.datasets == ["two", "one"] and len(part) == 2
    assert part.size == 16 and images.of_dataset("one").tolist() == [1, 3, 5]
    order = torch.tensor([5, 0, 0])
    assert torch.equal(images.tensor(order), images.tensor()[order])
    assert images.mask_tensor([2]).shape == (1, 1, 16, 16) and images.box_tensor().shape == (6, 4)
    images.tensor([0]).zero_()
    assert images.images[0].any() and images.tensor([]).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="do not fit"):
        ImageSet(images.images, images.masks[:, :8], images.boxes, images.truths, images.datasets, images.names)


def test_constant_image_becomes_zeros() -> None:
    images = _random_set(1, 8)
    images.images[:] = 77
    assert not images.tensor().any()


def test_low_masks_are_area_averages() -> None:
    images = _random_set(5, 16)
    blocks = images.masks.reshape(5, 8, 2, 8, 2).mean(axis=(2, 4))
    low = images.low_masks(8)
    assert low.dtype == np.float32 and (low == (blocks >= 0.5)).all()
    assert images.low_mask_tensor(8, [3, 1]).shape == (2, 1, 8, 8)
    assert images.low_masks(7).shape == (5, 7, 7)
    alone = _random_set(5, 16)
    assert (alone.low_masks(8, [3, 1, 3]) == low[[3, 1, 3]]).all() and (alone.low_masks(8) == low).all()
    assert alone.low_masks(8, []).shape == (0, 8, 8)
    low[:] = 7  # a copy: what the set keeps stays
    assert images.low_masks(8).max() == 1


def test_image_set_travels_with_what_is_derived_from_it() -> None:
    images = _random_set(6, 16)
    low, complexity = images.low_masks(8, [0, 4]), images.complexity
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(images, protocol=5, buffer_callback=buffers.append)
    again = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not again.masks.flags.writeable
    assert (again.low_masks(8)[[0, 4]] == low).all() and again.low_masks(8)[1].any()
    assert (again.complexity == complexity).all() and again.fingerprint() == images.fingerprint()


def test_fingerprint_sees_every_change_and_only_changes() -> None:
    images = _random_set(4, 16)
    prints = {images.fingerprint()}
    copies = [dataclasses.replace(images), images.subset(range(4))]
    copies.append(dataclasses.replace(images, images=np.asfortranarray(images.images)))
    assert {copy.fingerprint() for copy in copies} == prints
    for field in ("images", "masks", "boxes"):
        changed = getattr(images, field).copy()
        changed[2] = changed[2, ::-1]
        prints.add(dataclasses.replace(images, **{field: changed}).fingerprint())
    prints.add(dataclasses.replace(images, names=["n0", "n1", "n2", "x"]).fingerprint())
    prints.add(dataclasses.replace(images, datasets=["one"] * 4).fingerprint())
    prints |= {images.subset(chosen).fingerprint() for chosen in ([], [0, 1, 2], [1, 0, 2, 3])}
    assert len(prints) == 9


def test_jitter_stays_in_bounds_and_in_order() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 64, (500, 2))
    boxes = np.concatenate([first, np.minimum(first + rng.integers(0, 40, (500, 2)), 63)], axis=1)
    boxes = boxes.astype(np.float32)
    moved = jitter_boxes(boxes, np.random.default_rng(1), 0.2, size=64)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    assert moved.dtype == np.float32 and (moved[:, 2:] >= moved[:, :2]).all()
    assert moved.min() >= 0 and moved.max() <= 63 and (np.abs(moved - boxes) <= 0.2 * sides + 1e-4).all()
    assert (moved == jitter_boxes(boxes, np.random.default_rng(1), 0.2, size=64)).all()
    assert (jitter_boxes(boxes, np.random.default_rng(1), 0, size=64) == boxes).all()
    with pytest.raises(ValueError, match="share"):
        jitter_boxes(boxes, rng, 64, size=64)


def test_choice_per_dataset_is_seeded_and_replaces_what_cannot_be_read(tmp_path: Path) -> None:
    roots = [_folder(tmp_path / name, [f"f{i}" for i in range(9)]) for name in ("one", "two")]
    for index in range(5):
        (roots[0] / "images" / f"f{index}.png").write_bytes(b"broken")
    images, skipped = load_image_set(roots, "all", 16, per_dataset=4, seed=3)
    assert images.datasets == ["one"] * 4 + ["two"] * 4 and images.names[:4] == ["f5", "f6", "f7", "f8"]
    assert all("unreadable" in entry.reason for entry in skipped)
    assert images.names == load_image_set(roots, "all", 16, per_dataset=4, seed=3)[0].names
    choices = {tuple(load_image_set(roots[1:], "all", 16, per_dataset=4, seed=s)[0].names) for s in range(5)}
    assert len(choices) > 1
    searched = load_image_set(roots, "val/search", 16, seed=0, save_splits=tmp_path / "splits")[0]
    assert searched.names == load_image_set(roots, "val/search", 16, seed=9)[0].names
    files = [saved_file(root, tmp_path / "splits") for root in roots]
    assert sorted((tmp_path / "splits").iterdir()) == files


def test_listing_is_in_natural_order(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", ["10", "9", "1"])
    listing = list_folder(root, dataset="named")
    assert [(s.dataset, s.name) for s in listing.samples] == [("named", n) for n in ("1", "9", "10")]


def test_both_real_sets_load_whole() -> None:
    data = shared_dir() / "data"
    folders = [data / "kvasir-seg", data / "cvc-clinicdb"]
    images, skipped = load_image_set(folders, "all", 256)
    counts = [len(images.of_dataset(folder.name)) for folder in folders]
    assert counts == [798, 400] and not skipped
    index = 17
    with Image.open(folders[0] / "images" / f"{images.names[index]}.jpg") as file:
        assert (images.images[index] == np.asarray(file).transpose(2, 0, 1)).all()
    for part, expected in (("train", 898), ("val", 300)):
        manifest = [json.loads((folder / "splits.json").read_text())[part] for folder in folders]
        assert sum(map(len, manifest)) == expected
    searched = load_image_set(folders, "val/search", 64)[0]
    reported = load_image_set(folders, "val/report", 64)[0]
    assert len(searched) + len(reported) == 300 and not set(searched.names) & set(reported.names)
