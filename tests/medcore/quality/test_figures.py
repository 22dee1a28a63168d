"""The registry of figures: the lists that are derived from it, and users' own metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medcore.errors import MedcoreError
from medcore.quality import catalogue
from medcore.quality.figures import FIGURES, TERMS, Figure, Metric, add
from tests.support.studies.study_files import environment

#: A user's module; what is above the blank line is boilerplate.
PLUGIN = """
from medcore.quality.figures import Metric, add

def volume_error(pair):
    return abs(float(pair.pred.sum()) - float(pair.truth.sum())) / max(float(pair.truth.sum()), 1.0)

add(Metric("volume_error", "Volume error", volume_error, lower_is_better=True, worst_value=1.0))
"""

#: Everything that a search does with a metric, on two images, in a process that knows the module by its name only.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from medcore.data.imageset import ImageSet
from medcore.quality.evaluate import evaluate_logits, summarise
from medcore.quality.metrics import all_metrics
from results.pages.front_files import front_cells
from results.stats.objectives import Direction, Objective
from results.stats.select import choose
from results.store.front import front_of
from results.store.study_info import StudyInfo, read_study_info, write_study
from results.store.trial_row import TrialRow
from results.store.trials import compact, read_images, read_study, write_images, write_row
from search.base.objectives import reference_point, values_of

study = Path(sys.argv[1])
truth = np.zeros((8, 8), bool)
truth[2:6, 2:6] = True
rows = [{"dataset": "d", "name": name, **all_metrics(truth[::-1] * cut, truth)} for name, cut in (("a", 1), ("b", 0))]
objectives = (Objective("volume_error", Direction.MIN), Objective("dice", Direction.MAX))
dense = summarise(rows[:1]) | {"flops_fraction": 1.0}
reference = reference_point(objectives, dense, largest_side=8)
write_study(study, StudyInfo(name="s", objectives=objectives, reference=reference, dense=dense,
                             widths={"heads": 3, "channels": 4}))
trial = {"trial_id": "t0", "number": 0, "seed": 1, "origin": "sampled", "params": {}}
row = TrialRow.done(trial, metrics=summarise(rows), budget={"heads": (1,), "channels": (2,)})
write_row(study, row)
write_images(study, "t0", rows)
compact(study)
trials = read_study(study)
print(json.dumps({
    "reference": reference,
    "values": values_of(row, objectives),
    "images": read_images(study)["volume_error"].tolist(),
    "worst": row.figure("volume_error_worst"),
    "head": list(front_cells(front_of(trials, read_study_info(study)))),
    "best": str(choose(trials, objectives, "best:volume_error")["trial_id"]),
}))
"""


def test_lists_are_derived_in_a_fixed_order() -> None:
    assert [metric.name for metric in catalogue.metrics()] == [
        *["dice", "iou", "boundary_f1", "hd95", "assd", "nsd", "hd95_mm", "assd_mm", "nsd_mm"]
    ]
    assert catalogue.ranked() == [
        *["boundary_f1", "hd95", "dice", "iou", "nsd", "assd", "hd95_mm", "nsd_mm", "assd_mm"]
    ]
    assert catalogue.headlines() == ["boundary_f1", "hd95", "dice"] and catalogue.worst_by() == "hd95"
    assert catalogue.shown() == [*["boundary_f1", "dice", "iou", "nsd", "nsd_mm", "hd95", "assd", "hd95_mm", "assd_mm"]]
    assert catalogue.cost_shares() == [
        *["flops_fraction", "flops_paper_fraction", "encoder_params_fraction"],
        *["call_flops_fraction", "decoder_flops_fraction", "decoder_params_fraction"],
    ]
    names = [figure.name for figure in catalogue.figures()]
    assert (
        names[:2] == ["flops_fraction", "flops_paper_fraction"]
        and names[12:21] == catalogue.shown()
        and names[-1] == "gpu_memory_mb"
    )
    assert len(names) == len(set(names)) == len(FIGURES.names())


def test_every_figure_of_medcore_is_explained_in_one_sentence() -> None:
    metrics = "medcore.quality.metrics"  # others are of plugins
    figures = catalogue.figures()
    own = [each for each in figures if not isinstance(each, Metric) or each.function.__module__ == metrics]
    sentences = {**{figure.name: figure.meaning for figure in own}, **TERMS}
    assert all(not text[0].islower() and text.endswith(".") and "\n" not in text for text in sentences.values())
    assert len({figure.meaning for figure in own}) == len(own) and {"BLR95", "RLR", "BSR"} <= {*TERMS}
    titles = [figure.title for figure in catalogue.figures()]
    assert titles[:2] == ["FLOPs left", "FLOPs left by the paper's count"]


def test_worst_values() -> None:
    metrics = {metric.name: metric for metric in catalogue.metrics()}
    assert metrics["hd95"].worst(64) == metrics["assd"].worst(64) == 64.0 and metrics["dice"].worst(64) == 0.0
    assert Metric("x", "X", lambda pair: 0.0, lower_is_better=True, worst_value=1.0).worst(64) == 1.0


def test_a_name_is_given_once_and_an_unknown_one_lists_the_known() -> None:
    with pytest.raises(ValueError, match="dice"):
        add(Figure("dice", "Another Dice"))
    with pytest.raises(MedcoreError, match="boundary_f1"):
        FIGURES["dise"]


def test_a_users_metric_is_measured_stored_shown_and_optimised(tmp_path: Path) -> None:
    (tmp_path / "own_metric.py").write_text(PLUGIN)
    variables = environment() | {"MEDCORE_PLUGINS": "own_metric"}
    variables["PYTHONPATH"] = f"{tmp_path}:{variables.get('PYTHONPATH', '')}"
    study = tmp_path / "s"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(study)], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == [0.0, 1.0] and found["worst"] == 0.5
    assert found["reference"] == {"volume_error": 1.0, "dice": 0.0} and found["values"] == [0.5, 0.5]
    assert "Volume error" in found["head"] and found["best"] == "t0"
