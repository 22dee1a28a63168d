"""`study.json`: fields in and out, what is missing is named, files of earlier versions load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcore.errors import MedcoreError
from results.stats.objectives import Direction, Objective
from results.store.study_info import StudyInfo, read_study_info, study_info, write_study
from tests.support.studies.rows import STUDY_INFO

INFO = STUDY_INFO | {"dense": {**STUDY_INFO["dense"], "encoder_params": 7, "leverage_bd95": None}}


def test_round_trip_keeps_order_numbers_and_unknown_fields(tmp_path: Path) -> None:
    fields = {**INFO, "datasets": ["kvasir"], "git": "abc", "machine": "a node", "note": "kept"}
    write_study(tmp_path, study_info(fields))
    written = (tmp_path / "study.json").read_text()
    words = written.replace('"min"', '"minimize"').replace('"max"', '"maximize"')
    assert words == json.dumps(fields, indent=1) + "\n"
    info = read_study_info(tmp_path)
    assert info == study_info(fields) and info.git == "abc" and info.datasets == ["kvasir"]
    assert info.objectives == (Objective("flops", Direction.MIN), Objective("boundary_f1", Direction.MAX))


def test_a_search_writes_what_it_always_wrote(tmp_path: Path) -> None:
    info = StudyInfo(
        name="polyps",
        objectives=(Objective("dice", Direction.MAX),),
        reference={"dice": 0.0},
        dense={"dice": np.float64(0.5)},
        widths={"heads": 3, "channels": 48},
    )
    write_study(tmp_path, info)
    expected = {"name": "polyps", "objectives": [{"name": "dice", "direction": "max"}], "reference": {"dice": 0.0}}
    expected |= {"dense": {"dice": 0.5}, "widths": {"heads": 3, "channels": 48}}
    assert (tmp_path / "study.json").read_text() == json.dumps(expected, indent=1) + "\n"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"objectives": [{"name": "x"}]}, "name and a direction"),
        ({"objectives": [{"name": "x", "direction": "?"}]}, "direction"),
        ({"reference": 3}, "field reference"),
        ({"reference": {"flops": 1.0}}, "field reference.*boundary_f1"),
        ({"reference": {"flops": 1.0, "boundary_f1": None}}, "field reference"),
        ({"dense": {"flops": 1.0}}, "field dense.*boundary_f1"),
        ({"dense": {"flops": 1.0, "boundary_f1": None}}, "field dense.*boundary_f1"),
        ({"widths": None}, "field widths"),
        ({"widths": {"heads": 12}}, "field widths.*channels"),
        ({"widths": {"heads": 0, "channels": 3072}}, "field widths.heads"),
        ({"widths": {"heads": 12, "channels": []}}, "field widths.channels"),
        ({"widths": {"heads": [12, 0], "channels": 3072}}, "field widths.heads"),
        ({"families": [{"name": "cross", "title": "Cross heads"}]}, "field widths.*cross"),
        ({"name": None}, "field name"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path: Path, broken: dict[str, Any], words: str) -> None:
    (tmp_path / "study.json").write_text(json.dumps({**INFO, **broken}))
    with pytest.raises(MedcoreError, match=words) as caught:
        read_study_info(tmp_path)
    assert str(tmp_path / "study.json") in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_json_object(tmp_path: Path) -> None:
    for text in ("{", "[]", "3", "9" * 5000, "[" * 200_000):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(MedcoreError, match=r"study\.json"):
            read_study_info(tmp_path)
    with pytest.raises(MedcoreError, match="no study"):
        read_study_info(tmp_path / "absent")


def test_families_of_earlier_studies_and_shares() -> None:
    info = study_info(INFO)
    assert [(family.name, family.title) for family in info.prunable()] == [
        ("heads", "Attention heads"),
        ("channels", "MLP channels"),
    ]
    assert info.share("heads", (6, 12)) == 0.75
    families = [{"name": "cross", "title": "Cross heads"}]
    other = study_info(INFO | {"families": families, "widths": {"cross": [8, 4]}})
    assert other.prunable()[0].title == "Cross heads" and other.share("cross", (4, 2)) == 0.5
