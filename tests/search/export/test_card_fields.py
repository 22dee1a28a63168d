"""What `medcore export --card` takes, and that the card's head has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from medcore.errors import ConfigError
from search.cli.main import app
from search.export.card_fields import card_fields
from search.export.formats import FORMATS
from tests.support.studies.export_study import write_study_of_one

STATED = ["license=apache-2.0", "base_model=wanglab/medsam-vit-base", "datasets=kvasir-seg,me/cvc"]


def test_values_by_key() -> None:
    assert card_fields([]) == {}
    assert card_fields(STATED) == {
        **{"license": "apache-2.0", "base_model": "wanglab/medsam-vit-base"},
        "datasets": ["kvasir-seg", "me/cvc"],
    }
    own = ["license=other", "license_name=our-licence", "license_link=LICENSE.md"]
    assert card_fields(own) == dict(text.split("=") for text in own)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["licence=mit"], r"--card licence=mit: .*license, license_name"),
        (["license"], r"--card license: license has another form, such as license=apache-2\.0"),
        (["license=MIT licence"], "another form"),
        (["base_model=a/b/c"], "base_model=owner/name"),
        (["datasets=a,,b"], "another form"),
        (["license_link=javascript:x"], "another form"),
        (["license=mit\nbase_model: x"], "another form"),
        (["license=mit", "license=mit"], "twice"),
        (["license=other"], "license_name=NAME"),
        (["license=mit", "license_name=mine"], "license_name=NAME"),
    ],
)
def test_other_values_are_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        card_fields(texts)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("instant_timing")
def test_an_export_has_what_the_user_states(tmp_path: Path) -> None:
    study, out = write_study_of_one(tmp_path), tmp_path / "best"
    words = ["export", str(study), "--out", str(out), "--format", "standalone", "--no-held-out", "--no-latency"]
    result = CliRunner().invoke(app, [*words, *(f"--card={text}" for text in STATED)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    card = ModelCard.load(out / "MODEL_CARD.md")
    assert card.data.to_dict().items() >= {**card_fields(STATED), "library_name": "segment-anything"}.items()
    assert CliRunner().invoke(app, [*words, "--card=license=other"]).exit_code != 0


def test_the_library_is_the_one_that_runs_the_format() -> None:
    assert {name: FORMATS[name].library for name in FORMATS.names()} == {
        **{"checkpoint": "medcore", "standalone": "segment-anything", "onnx": "onnxruntime"},
        **{"mlflow": "mlflow", "huggingface": "transformers"},
    }
