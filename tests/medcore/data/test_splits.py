"""Splits: disjoint, complete, kept across studies, and refused if they share images."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from medcore.data.splits import make_splits, read_splits
from medcore.errors import DataError, StorageError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a readable splits file"),
        ('["a"]', "expected an object"),
        ('{"train": "a"}', "'train' is no list"),
        ('{"train": ["a.png"], "val": ["a"]}', "both 'train' and 'val'"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_splits(tmp_path, ["a"])
    assert "splits.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [2, 3, 7, 50, 100, 399])
def test_made_splits_are_disjoint_complete_and_in_blocks(count: int) -> None:
    names = [f"frame{i}" for i in range(count)]
    for seed in range(4):
        parts = make_splits(names[::-1], {"train": 0.75, "val": 0.25}, seed)
        assert sorted(parts["train"] + parts["val"]) == sorted(names) and all(parts.values())
        assert parts == make_splits(names, {"train": 3, "val": 1}, seed)
        width = max(1, min(20, count // 4))
        assert abs(len(parts["val"]) - count / 4) <= width
        for block in range(0, count, width):
            assert len({name in parts["val"] for name in names[block : block + width]}) == 1
    assert make_splits([], {"train": 1, "val": 1}, 0) == {"train": [], "val": []}


def test_splits_without_groups_are_those_of_earlier_versions() -> None:
    names = [f"f{i}" for i in range(130)]
    assert make_splits(names[:12], {"train": 0.75, "val": 0.25}, 0) == {"train": names[3:12], "val": names[:3]}
    assert make_splits(names[:9], {"train": 0.6, "val": 0.2, "test": 0.2}, 3) == {
        "train": ["f0", "f1", "f6", "f7", "f8"],
        "val": ["f4", "f5"],
        "test": ["f2", "f3"],
    }
    for groups in (None, {}, dict.fromkeys(names, "")):
        parts = make_splits(names, {"train": 0.75, "val": 0.25}, 0, groups)
        assert parts["val"] == names[20:40] + names[80:100]
        assert make_splits(names, {"a": 0.5, "b": 0.5}, 0, groups)["b"] == names[20:40] + names[80:130]


@pytest.mark.parametrize("seed", range(60))
def test_groups_stay_whole(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"{chance.choice(('', 'a', 'b '))}{i}" for i in chance.sample(range(1000), chance.randint(1, 120))]
    many = chance.choice((1, 3, 10, 200))
    groups = {name: f"p{chance.randrange(many)}" for name in names if chance.random() < chance.choice((0.3, 1))}
    fractions = chance.choice(({"train": 0.75, "val": 0.25}, {"train": 0.6, "val": 0.2, "test": 0.2}, {"a": 1, "b": 1}))
    parts = make_splits(names, fractions, seed, groups)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert parts == make_splits(chance.sample(names, len(names)), fractions, seed, dict(reversed(groups.items())))
    places: dict[str, set[str]] = {}
    for split, part in parts.items():
        for name in part:
            places.setdefault(groups.get(name, f"alone {name}"), set()).add(split)
    assert all(len(found) == 1 for found in places.values())
    assert sum(map(bool, parts.values())) == min(len(fractions), len(places))


def test_a_study_s_halves_keep_groups_whole_and_a_manifest_that_does_not_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"case{i // 4}_slice{i % 4}" for i in range(80)]
    groups = {name: name.partition("_")[0] for name in names}
    parts = read_splits(tmp_path, names, groups=groups).names
    for one in ("train", "val/search", "val/report"):
        assert parts[one]
        for other in {"train", "val/search", "val/report"} - {one}:
            assert not {groups[name] for name in parts[one]} & {groups[name] for name in parts[other]}
    assert not caplog.records
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:41], "val": names[41:]}))
    for _ in range(2):
        read_splits(tmp_path, names, groups=groups)
    (record,) = caplog.records
    assert "1 groups, such as 'case10'" in record.getMessage() and str(tmp_path) in record.getMessage()


def test_derived_halves_and_their_file(tmp_path: Path) -> None:
    names = [str(i) for i in range(160)]
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:60], "val": names[60:]}))
    parts = read_splits(tmp_path, names, seed=1, save_to=tmp_path / "kept" / "s.json").names
    assert sorted(parts["val/search"] + parts["val/report"]) == sorted(names[60:])
    assert {len(parts["val/search"]), len(parts["val/report"])} == {40, 60}
    assert parts["all"] == names and parts["train"] == names[:60]
    again = read_splits(tmp_path, [*names, "new"], seed=2, save_to=tmp_path / "kept" / "s.json").names
    assert again["val/search"] == parts["val/search"]
    assert any(read_splits(tmp_path, names, seed).names["val/search"] != parts["val/search"] for seed in range(2, 6))
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["s.json"]
    own = {"train": ["1"], "val": ["2", "3"], "val/search": ["3"], "val/report": ["2"]}
    (tmp_path / "splits.json").write_text(json.dumps(own))
    assert read_splits(tmp_path, names).names["val/search"] == ["3"]
    (tmp_path / "file").write_text("")
    (tmp_path / "splits.json").unlink()
    with pytest.raises(StorageError, match=r"s\.json"):
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
    assert splits.names[half] == names[25:28] and splits.names[other] == [*names[20:25], *names[28:]]
    assert not splits.fleeting and splits.unassigned(half) == set()
    if save_to is not None:
        assert json.loads(save_to.read_text()) == {other: splits.names[other]}


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
def test_splits_that_share_images_are_refused(
    manifest: dict[str, list[str]], saved: dict[str, list[str]] | None, words: str, tmp_path: Path
) -> None:
    own, kept = tmp_path / "splits.json", tmp_path / "kept.json"
    own.write_text(json.dumps(manifest))
    if saved is not None:
        kept.write_text(json.dumps(saved))
    before = None if saved is None else kept.read_bytes()
    with pytest.raises(DataError) as caught:
        read_splits(tmp_path, ["1", "2", "3"], save_to=kept)
    message = str(caught.value)
    assert words in message and str(own) in message and "\n" not in message
    assert (f"delete {kept}" in message) == (saved is not None)
    assert before == (kept.read_bytes() if kept.is_file() else None)
