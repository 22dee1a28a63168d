"""The files before the first trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medcore.errors import MedcoreError
from search.base.config import load_config
from search.commands import open_study
from tests.support.studies.study_files import write_tiny_study


@pytest.mark.parametrize("value", [float("nan"), None])
def test_an_objective_must_be_a_number_for_the_dense_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float | None
) -> None:
    config = load_config(write_tiny_study(tmp_path))
    dense: dict[str, Any] = {objective.name: 1.0 for objective in config.search.objectives}
    name = config.search.objectives[-1].name
    monkeypatch.setattr(open_study, "dense_metrics", lambda *_, **__: dense | {name: value})
    images: Any = SimpleNamespace(truths=[], datasets=[])
    with pytest.raises(MedcoreError, match=f"objective {name} is no number for the dense model") as caught:
        open_study.describe(config, images)
    assert "\n" not in str(caught.value)
