"""What of a model's structure the keys of statistics hold."""

from __future__ import annotations

from pathlib import Path

from search.base.config import load_config
from search.base.sections.inputs import ModelConfig
from search.study.inputs import adapted_model, structure_key
from tests.support.studies.study_files import write_tiny_study


def test_statistics_are_shared_only_where_they_are_the_same(tmp_path: Path) -> None:
    plain = load_config(write_tiny_study(tmp_path)).model

    def with_(**changes: object) -> ModelConfig:
        return plain.model_copy(update=changes)

    both = with_(parts=("encoder", "decoder"))
    models = (plain, both, with_(parts=("encoder", "decoder"), drop=("iou",)), with_(side=32))
    keys = [structure_key(model) for model in models]
    assert keys[0] == adapted_model(plain).arch.to_dict() and "parts" not in keys[0]
    assert all(one != other for place, one in enumerate(keys) for other in keys[:place])
    # the teacher's answers are those of all but the model on another square
    answers = [structure_key(model, answers_only=True) for model in models]
    assert answers[0] == answers[1] == answers[2] != answers[3]
