"""Score tables on disk: whole, damaged, and of earlier versions."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from medcore.errors import MedcoreError
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import ScoringWeights, block_sensitivity, mix
from medcore.scoring.score_table import FORMAT, STATISTICS, ScoreTable, families_of, table_key
from tests.support.helpers import TINY
from tests.support.scoring_samples import PRUNED, arrays_of, random_table, with_arrays


def old_header(table: ScoreTable, spec: ModelSpec | None) -> dict[str, str]:
    """Metadata as versions before families wrote it: the spec of a pruned model, or null for a dense one."""
    header = {"datasets": list(table.datasets), "nodes": list(table.nodes), "meta": table.meta}
    header["spec"] = None if spec is None else spec.to_dict()
    return {"format": FORMAT, "table": json.dumps(header)}


def test_table_survives_the_disk(tmp_path: Path) -> None:
    table = replace(random_table(), families=families_of(PRUNED))
    path = tmp_path / "new" / "scores.safetensors"
    table.save(path)
    loaded = ScoreTable.load(path)
    assert (loaded.datasets, loaded.nodes, loaded.meta) == (table.datasets, table.nodes, table.meta)
    assert loaded.families == table.families
    assert {name: loaded.widths(name) for name in loaded.families} == {
        name: PRUNED.family(name) for name in ("heads", "channels")
    }
    assert arrays_of(loaded).keys() == arrays_of(table).keys() and len(loaded.arrays) == 2 * len(STATISTICS)
    for name, value in arrays_of(table).items():
        np.testing.assert_array_equal(arrays_of(loaded)[name], value)
    assert [each.name for each in path.parent.iterdir()] == ["scores.safetensors"]


def test_broken_tables_are_named(tmp_path: Path) -> None:
    table = random_table()
    path = tmp_path / "scores.safetensors"
    with pytest.raises(MedcoreError, match="no such score table"):
        ScoreTable.load(path)
    path.write_bytes(b"not a table")
    with pytest.raises(MedcoreError, match="not a readable score table"):
        ScoreTable.load(path)
    with_arrays(table, reset_heads=table.array("reset", "heads")[:, :2]).save(path)
    with pytest.raises(MedcoreError, match="reset_heads has shape"):
        ScoreTable.load(path)
    replace(table, block_fisher=table.block_fisher * np.nan).save(path)
    with pytest.raises(MedcoreError, match="block_fisher holds values that are not finite"):
        ScoreTable.load(path)
    arrays = arrays_of(table)
    save_file(arrays, path, metadata={"format": FORMAT, "table": "{}"})
    with pytest.raises(MedcoreError, match="header is damaged"):
        ScoreTable.load(path)
    save_file(arrays, path, metadata={"format": "other"})
    with pytest.raises(MedcoreError, match="not a score table of format"):
        ScoreTable.load(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="cannot write the score table"):
        table.save(tmp_path / "file" / "scores.safetensors")


@pytest.mark.parametrize("name", ["zero_heads", "zero_channels", "block_fisher"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_arrays_with_other_axes_are_named(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    table, path = random_table(), tmp_path / "scores.safetensors"
    arrays = arrays_of(table)
    save_file(arrays | {name: np.ones(shape)}, path, metadata=old_header(table, None))
    with pytest.raises(MedcoreError, match=f"{name}.* ha(s|ve) shape"):
        ScoreTable.load(path)


@pytest.mark.parametrize("other", [{"mlp_ratio": 3.0}, {"depth": 5}])
def test_a_table_narrower_than_its_spec_is_refused(other: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    table = random_table()
    save_file(arrays_of(table), path, metadata=old_header(table, ModelSpec.dense(replace(TINY, **other))))
    with pytest.raises(MedcoreError, match=r"has shape .*, expected .*; score again"):
        ScoreTable.load(path)


def digest(values: Iterable[np.ndarray]) -> str:
    """Of nine digits, which no order of additions changes."""
    text = " ".join(f"{value:.9e}" for array in values for value in np.ravel(array))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


#: What the version before families made of `random_table`: criterion -> digest of the scores.
OLD_DIGESTS = {
    "dense": {
        "medcore": "5d6bf13d5206680c",
        "fisher": "670294356f822878",
        "michel": "0acb0f05a8608bb7",
        "activation": "25d63682dfeecb2c",
        "magnitude": "530dfe70e4db7195",
        "random": "fd6c188351f0a1a2",
    },
    "pruned": {
        "medcore": "7c125a59104b73e8",
        "fisher": "4353ef31635442e2",
        "michel": "1afcbbcf3bea5fd9",
        "activation": "818f8b96550fa542",
        "magnitude": "2bd7ca8108e5a877",
        "random": "516c1c47a81d73ea",
    },
}


@pytest.mark.parametrize("which", ["dense", "pruned"])
def test_tables_of_earlier_versions_load_and_mix_to_the_same_digits(which: str, tmp_path: Path) -> None:
    spec, path = PRUNED if which == "pruned" else None, tmp_path / "scores.safetensors"
    table = random_table()
    save_file(arrays_of(table), path, metadata=old_header(table, spec))
    loaded = ScoreTable.load(path)
    assert loaded.families == families_of(spec or ModelSpec.dense(TINY))
    assert (loaded.datasets, loaded.nodes, loaded.meta) == (table.datasets, table.nodes, table.meta)
    for criterion, expected in OLD_DIGESTS[which].items():
        weights = ScoringWeights(
            {"channels": 0.25}, mixture={"set0": 2, "set2": 6}, tau=0.5, criterion=criterion, blend=0.7, seed=3
        )
        assert digest(mix(loaded, weights, TINY)) == expected, criterion
    assert digest([block_sensitivity(loaded, ScoringWeights())]) == "d9a555d311fb0c16"
    loaded.save(tmp_path / "again.safetensors")
    again = ScoreTable.load(tmp_path / "again.safetensors")
    assert again.families == loaded.families


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": [0, 1, 2]}, "do not fit each other"),
        ({"blocks": [0, 1, 2, -1]}, "do not fit each other"),
        ({"widths": [3, 3, 3, -1]}, "do not fit each other"),
        ({"widths": [3, 3, 3, 4]}, "zero_heads has shape .*, expected"),
        ({"blocks": [0, 1, 2, 4]}, "block_fisher has shape .*, expected"),
        ({"blocks": [0] * 5, "widths": [3] * 5}, "zero_heads has shape .*, expected"),
        ({"widths": "many"}, "header is damaged"),
        ({"widths": None}, "header is damaged"),
    ],
)
def test_families_that_do_not_fit_the_arrays_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    table, path = random_table(), tmp_path / "scores.safetensors"
    header = json.loads(old_header(table, None)["table"])
    header["families"] = {name: vars(sites) for name, sites in table.families.items()}
    header["families"]["heads"] = header["families"]["heads"] | change
    save_file(arrays_of(table), path, metadata={"format": FORMAT, "table": json.dumps(header)})
    with pytest.raises(MedcoreError, match=message) as caught:
        ScoreTable.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_key_depends_on_content_not_on_order() -> None:
    key = table_key(weights="abc", nodes=(0, 3), split={"a": 1, "b": 2})
    assert key == table_key(split={"b": 2, "a": 1}, nodes=[0, 3], weights="abc")
    assert key != table_key(weights="abc", nodes=(0, 1), split={"a": 1, "b": 2})
    assert len(table_key(path=Path("x"), arch=TINY, count=np.int64(3))) == 64
    with pytest.raises(TypeError):
        table_key(what=object())
