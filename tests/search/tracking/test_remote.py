"""Studies that are brought back from MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcore.errors import MedcoreError
from results.store.study_info import read_study_info
from results.store.trials import read_study
from search.tracking.remote import download_study
from tests.support.studies.tracked_study import make_study
from tests.support.studies.tracking import started


def test_study_comes_back_from_the_store(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    assert started(folder, store).finish() is None
    copy = tmp_path / "copy"
    copy.mkdir()
    assert download_study("mlflow:medcore/s", copy, store) == copy
    assert read_study(copy).equals(read_study(folder))
    assert read_study_info(copy) == read_study_info(folder)
    with pytest.raises(MedcoreError, match="no such run"):
        download_study("mlflow:medcore/other", copy, store)
    with pytest.raises(MedcoreError, match=r"expected mlflow:<experiment>/<run>"):
        download_study("mlflow:medcore", copy, store)
