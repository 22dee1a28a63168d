"""Times of a busy machine, or of too few calls, are in doubt, and rules refuse them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medcore.errors import MedcoreError
from medcore.quality.timing import Conditions, Latency, Timing
from results.stats.select import choose
from results.store.latency import add_latency
from results.store.trials import read_study
from search.cli.main import app
from tests.support.studies.timed_study import OBJECTIVES, record, write_timed_study

BUSY = Conditions(waited=0.4, others=0.9)


def test_rules_refuse_times_of_a_busy_machine_until_they_are_accepted(tmp_path: Path) -> None:
    study = write_timed_study(tmp_path / "s")
    add_latency(study, [record("t0"), replace(record("t1", 20.0), conditions=BUSY), record("t0", 90.0, 8)])
    add_latency(study, [record("t1", 80.0, 8)])
    assert "machine was busy" in read_study(study).set_index("trial_id").loc["t1", "latency_doubt"]
    for rule in ("latency_ms<=100", "best:encoder_ms", "knee,latency_ms_fraction<=1"):
        with pytest.raises(MedcoreError, match=r"doubtful for 1 of 2 .*t1.*busy.*--again.*--accept"):
            choose(read_study(study), OBJECTIVES, rule)
    assert choose(read_study(study), OBJECTIVES, "best:latency_ms_batch8")["trial_id"] == "t1"
    assert choose(read_study(study), OBJECTIVES, "peak_mb<=3")["trial_id"] == "t0"
    result = CliRunner().invoke(app, ["latency", str(study), "--batch", "1", "--accept"], catch_exceptions=False)
    assert result.exit_code == 0 and "do not trust" not in result.stderr
    assert choose(read_study(study), OBJECTIVES, "best:latency_ms")["trial_id"] in ("t0", "t1")


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (Timing(30.0, None, 1, cpu_ms=30.0), "1 timed calls are too few"),
        (Timing(30.0, 9.0, 20, 25.0, 40.0, 30.0), "50% of it wide"),
        (Timing(30.0, 9.0, 20, 29.5, 30.5, 30.0), ""),
    ],
)
def test_times_that_are_uncertain_are_in_doubt(timing: Timing, words: str) -> None:
    sure = Timing(30.0, 9.0, 20, 29.5, 30.5, 30.0)
    for model in (Latency(timing, timing, 1), Latency(timing, sure, 1), Latency(sure, timing, 1)):
        doubt = replace(record("t0"), model=model).doubt
        assert words.partition(" ")[2] in doubt and bool(doubt) == bool(words)
