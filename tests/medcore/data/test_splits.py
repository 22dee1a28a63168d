"""Splits: disjoint, complete, kept across studies, and refused if they share images."""

from __future__ import annotations

import json
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
