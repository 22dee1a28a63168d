"""The sentences on repeats and on the dense model, in the front's files, the terminal and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from results.pages.noise import noise_sentences
from results.stats.intervals import macro_interval
from results.stats.seed_noise import Candidate
from results.store.trials import read_images
from search.cli.tables import front_view
from search.commands import front as fronts
from search.commands.report.report import report
from tests.support.studies.repeated_study import write_repeated_study

REPEATS = "4 further runs repeat trials with other seeds. Figures of a repeated trial are means over its runs."
LEFT = (
    "Trial t0001 was on the front by its first run (Boundary F1 0.7) and is not by the mean over 3 runs "
    "(Boundary F1 0.65)."
)
DENSE = "Dense model after the same recovery: Boundary F1 0.81 (2 seeds)."


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repeated_study(tmp_path_factory.mktemp("repeated") / "s")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repeated_study(tmp_path_factory.mktemp("plain") / "s", repeats=False)


def shown(study: Path) -> str:
    console = Console(width=80, record=True)
    console.print(front_view(fronts.front(str(study))))
    return console.export_text()


def test_sentences(study: Path, plain: Path) -> None:
    repeats, noise, left, dense = noise_sentences(fronts.front(str(study)))
    assert (repeats, left, dense) == (REPEATS, LEFT, DENSE)
    assert noise.startswith("Seed noise, the standard deviation of one run, pooled over all repeated trials: ")
    assert noise.endswith("Boundary F1 0.03674 (4 degrees of freedom).")
    assert noise_sentences(fronts.front(str(plain))) == [
        "Dense model after the same recovery: Boundary F1 0.8 (1 seed)."
    ]


def test_a_trial_without_repeats_left_because_of_another(study: Path) -> None:
    left = (Candidate("t9", 1, {"boundary_f1": 0.5}, {"boundary_f1": 0.5}),)
    front = dataclasses.replace(fronts.front(str(study)), dethroned=left, further_runs=1)
    repeats, _, sentence, _ = noise_sentences(front)
    assert repeats.startswith("1 further run repeats a trial with")
    assert sentence.endswith("and is not any more: the mean over runs of another trial dominates it.")


def test_the_terminal_has_both_intervals_and_the_sentences(study: Path, plain: Path) -> None:
    text = shown(study)
    assert max(map(len, text.splitlines())) <= 80
    assert "2 of 4 trials on the front (2 failed, 1 stopped early)" in text
    member = next(line for line in text.splitlines() if line.split()[:1] == ["t0002"] and " to " in line)
    assert member.split()[1:8] == ["Boundary", "F1", "2", "0.7000", "0.5729", "to", "0.8271"]
    images = read_images(study, {"t0002"})
    low, high = macro_interval(images["boundary_f1"], images["dataset"])
    assert member.split()[8:] == [f"{low:.4f}", "to", f"{high:.4f}"]
    words = " ".join(text.split())
    assert all(sentence in words for sentence in (REPEATS, LEFT, DENSE)) and "dense not recovered" in words
    assert "further run" not in shown(plain) and "images" in shown(plain)


def test_json_has_them_as_numbers(study: Path) -> None:
    found = json.loads(json.dumps(fronts.front(str(study)).to_dict(), allow_nan=False))
    assert found["further_runs"] == 4 and found["recovered_dense"]["seeds"] == 2
    assert found["dethroned"] == [
        {"trial_id": "t0001", "runs": 3, "single": {"flops": 50.0, "boundary_f1": 0.7}}
        | {"mean": {"flops": 50.0, "boundary_f1": pytest.approx(0.65)}}
    ]
    member = found["uncertainties"][0]
    assert (member["trial_id"], member["metric"], member["runs"]) == ("t0002", "boundary_f1", 2)
    assert len(member["seeds"]) == len(member["images"]) == 2 and found["seed_noise"]["boundary_f1"]["freedom"] == 4


def test_files_of_the_front_have_a_column_for_seeds(study: Path, plain: Path, tmp_path: Path) -> None:
    csv, markdown, *_ = fronts.write(str(study), tmp_path / "out")
    table = pd.read_csv(csv)
    assert table["origin"].tolist() == ["sampled", "dense", "dense model, not recovered"]
    assert table["seeds"].tolist()[:2] == [2, 2] and pd.isna(table["seeds"][2])
    assert table["boundary_f1_seed_lo"][0] == pytest.approx(0.5729, abs=1e-4)
    text = markdown.read_text()
    assert "| runs | Boundary F1, seeds 95 % |" in text and "| 2 | 0.5729 to 0.8271 |" in text
    assert all(sentence in text for sentence in (REPEATS, LEFT, DENSE))
    csv, markdown, *_ = fronts.write(str(plain), tmp_path / "plain")
    assert not [name for name in pd.read_csv(csv) if "seed" in name] and "| runs |" not in markdown.read_text()


def test_the_report_says_all_of_it(study: Path, plain: Path, tmp_path: Path) -> None:
    report(str(study), tmp_path / "report.html", select=["trial:t0002"])
    page = (tmp_path / "report.html").read_text()
    assert "The search ran 7 trials (2 failed, 1 stopped early)" in page and page.count(REPEATS) == 2
    assert all(sentence in page for sentence in (LEFT, DENSE, "Boundary F1 0.03674 (4 degrees of freedom)"))
    assert "Boundary F1 over 2 seeds (95 %): 0.5729 to 0.8271" in page
    assert "The dense model, not recovered: the unpruned model on the search images" in page
    assert "On the search images, next to the dense model, not recovered." in page and "instead of 0.7800, " in page
    assert '<span class="interval">seeds: 0.5729 to 0.8271</span>' in page
    assert "<td>t0001</td>" not in page and "<td>t0006</td>" not in page
    assert "Time of all trials together</th><td>0.02 h" in page  # eight runs of ten seconds
    report(str(plain), tmp_path / "plain.html")
    assert "seeds: " not in (tmp_path / "plain.html").read_text()


def test_a_model_that_was_pruned_before_is_named(study: Path) -> None:
    front = fronts.front(str(study))
    family = front.info.prunable()[0].name
    dense = front.info.widths[family]
    half = [max(width // 2, 1) for width in dense] if isinstance(dense, list) else [dense // 2] * 4
    start = {each.name: half for each in front.info.prunable()}
    info = front.info.model_copy(update={"start": start})
    first, *rest = noise_sentences(dataclasses.replace(front, info=info))
    assert rest == noise_sentences(front)
    assert f"{info.start_share(family):.0%} of the {family}" in first and "pruned already" in first
