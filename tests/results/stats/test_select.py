"""Rules in words, on a small front laid out by hand and on random ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from results.stats.labels import axis, base_name, lower_is_better, si, text
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.stats.select import choose, metric_names, parse

OBJECTIVES = [
    Objective(name="flops", direction="min"),
    Objective(name="boundary_f1", direction="max"),
    Objective(name="hd95", direction="min"),
]
COLUMNS = [
    "trial_id",
    "number",
    "status",
    "flops",
    "flops_paper_fraction",
    "boundary_f1",
    "hd95",
    "dice",
    "reason",
]
ROWS = [
    ("aa1", 0, "done", 900e9, 1.00, 0.90, 5.0, 0.95, None),
    ("aa2", 1, "done", 400e9, 0.45, 0.85, 6.0, 0.93, None),
    ("bb1", 2, "done", 120e9, 0.13, 0.60, 15.0, 0.94, None),
    ("bb2", 3, "done", 100e9, 0.11, 0.55, 12.0, 0.80, None),
    ("cc1", 4, "done", 800e9, 0.90, 0.50, 30.0, 0.70, None),  # dominated
    ("dd1", 5, "failed", None, None, None, None, None, "out of memory"),
]


def study() -> pd.DataFrame:
    frame = pd.DataFrame(ROWS, columns=COLUMNS)
    return frame.assign(
        **{"param/lr": 1e-5, "report/dice": 0.9, "boundary_f1/kvasir": [0.1, 0.2, 0.9, 0.4, 0.3, None], "mystery": 1.0}
    )


@pytest.mark.parametrize(
    ("rule", "trial"),
    [
        ("knee", "aa2"),
        ("best:boundary_f1", "aa1"),
        ("best:flops", "bb2"),
        ("best:hd95", "aa1"),
        ("best:boundary_f1/kvasir", "bb1"),  # a variant has its metric's direction
        ("flops<=120G", "bb1"),  # cost settled: the best boundary
        ("flops<=0.12T", "bb1"),
        ("flops <= 120 g", "bb1"),
        ("flops<=119999M", "bb2"),
        ("flops_paper_fraction<=0.5", "aa2"),  # another figure of cost settles cost too
        ("boundary_f1>=0.8", "aa2"),  # quality settled: the fewest FLOPs
        ("hd95<=13", "bb2"),
        ("boundary_f1>=0.58,best:dice", "aa1"),
        ("flops<=500G,best:dice", "bb1"),
        ("best:dice, flops<=500G", "bb1"),
        ("flops<=500G,boundary_f1>=0.5", "aa2"),  # what is open: hd95
        ("flops<=500G,boundary_f1>=0.5,hd95<=20", "aa2"),  # nothing open: the knee of what is left
        ("flops<=130G,knee", "bb2"),
        ("trial:cc1", "cc1"),  # dominated, but finished
        ("trial:cc", "cc1"),
        ("trial:bb2", "bb2"),
    ],
)
def test_rules(rule: str, trial: str) -> None:
    if rule == "flops<=130G,knee":  # two points: both extremes are equally near, the first of the table wins
        assert front_table(study(), OBJECTIVES)["trial_id"].tolist()[0] == trial
    row = choose(study(), OBJECTIVES, rule)
    assert row["trial_id"] == trial and row["status"] == "done"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("", "cannot read ''"),
        ("kneee", "cannot read 'kneee'"),
        ("best:", "cannot read 'best:'"),
        ("flops<120G", "cannot read 'flops<120G'"),
        ("flops<=12OG", "'12O' is no number"),
        ("flops<=nan", "must be finite"),
        ("flops<=1<=2", "cannot read"),
        ("knee,best:dice", "at most one"),
        ("trial:aa1,flops<=3", "stands alone"),
        (
            "best:boundry_f1",
            r"unknown metric 'boundry_f1' \(did you mean boundary_f1\?\); this study has flops, .*hd95",
        ),
        ("FLOP<=3", "unknown metric 'FLOP'"),
        ("param/lr<=3", "unknown metric"),
        ("best:mystery", "not known whether"),
        ("best:report/dice", "^report/dice is a held-out figure, and choosing by it would spoil it"),
        ("report/dice>=0.5", "held-out figure"),
        ("trial:aa", r"fits 2 trials \(aa1, aa2\)"),
        ("trial:zz", "no finished trial 'zz'"),
        ("trial:dd1", r"failed \(out of memory\)"),
        ("flops<=99G", "the nearest is trial:bb2 with flops 100G"),
        (
            "flops<=390G,boundary_f1>=0.86",
            r"meets flops<=390G,boundary_f1>=0.86; .* trial:aa2 with flops 400G, boundary_f1 0.85",
        ),
    ],
)
def test_what_cannot_be_met_is_one_clear_line(rule: str, says: str) -> None:
    with pytest.raises(MedcoreError, match=says) as caught:
        choose(study(), OBJECTIVES, rule)
    assert "\n" not in str(caught.value)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(MedcoreError, match="front is empty"):
        choose(study().assign(status="failed"), OBJECTIVES, "knee")
    with pytest.raises(MedcoreError, match="front is empty"):
        choose(study().iloc[:0], OBJECTIVES, "knee")
    with pytest.raises(MedcoreError, match="has measured"):
        choose(study().assign(dice=np.nan), OBJECTIVES, "dice>=0.5")


def test_a_missing_metric_is_never_the_best() -> None:
    df = study()
    df.loc[0, "dice"] = np.nan
    assert choose(df, OBJECTIVES, "best:dice")["trial_id"] == "bb1"


def test_the_objective_s_own_direction_wins() -> None:
    upside_down = [*OBJECTIVES[:1], Objective(name="dice", direction="min")]
    assert choose(study(), upside_down, "best:dice")["dice"] == 0.70


@pytest.mark.parametrize("seed", range(5))
def test_constraints_on_random_fronts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.1, 1, (40, 3))
    df = pd.DataFrame(values, columns=["flops", "boundary_f1", "hd95"])
    df = df.assign(trial_id=[f"t{i}" for i in range(40)], number=range(40), status="done")
    front = front_table(df, OBJECTIVES)
    limit = float(front["flops"].median())
    inside = front[front["flops"] <= limit]
    row = choose(df, OBJECTIVES, f"flops<={limit!r}")
    assert row["boundary_f1"] == inside["boundary_f1"].max()
    assert choose(df, OBJECTIVES, f"flops<={limit!r},best:hd95")["hd95"] == inside["hd95"].min()


def test_parse_scales_and_metrics_listed() -> None:
    limits = [parse(f"flops>={text}").constraints[0].limit for text in ("2", "2K", "2M", "2G", "2t", "1e3", "-1.5")]
    assert limits == [2, 2e3, 2e6, 2e9, 2e12, 1e3, -1.5]
    names = metric_names(study())
    assert "flops" in names and "dice" in names and not {"number", "param/lr", "report/dice", "trial_id"} & set(names)


def test_labels() -> None:
    values = (972.08e9, 89670912, 1537, 0.51234, 0, 2e12)
    bases = {
        "hd95/kvasir": "hd95",
        "dice_worst": "dice",
        "flops_paper_fraction": "flops_paper_fraction",
        "heads": None,
    }
    assert {name: base_name(name) for name in bases} == bases
    assert text("dice", None) == text("dice", float("nan")) == "–"
    assert lower_is_better("assd_worst") and not lower_is_better("iou") and lower_is_better("other") is None
    assert [si(value) for value in values] == ["972.1G", "89.67M", "1.537K", "0.5123", "0", "2T"]
    assert text("flops_fraction", 0.5) == "50.0 % of dense" and text("hd95/a", 5.123) == "5.123 px"
    assert axis("flops", [3e12, np.nan]) == (1e-12, "Encoder FLOPs (TFLOPs) — lower is better")
    assert axis("flops_fraction", [0.1])[0] == 100 and axis("latency", [1.0]) == (1.0, "latency")
    assert axis("latency", [], lower=True)[1] == "latency — lower is better"
    assert axis("dice/kvasir", [0.1])[1] == "Dice, kvasir — higher is better"
