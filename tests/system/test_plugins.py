"""A user's own architecture, criterion, sampler and metric in a real search, without a line in any other file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.registry import PLUGINS
from medcore.scoring.score_table import ScoreTable
from tests.support.machines.command_line import medcore_program
from tests.support.machines.command_server import CommandServer
from tests.support.studies.study_files import environment, write_tiny_study
from tests.support.toy.arch import Toy

TOY = Toy()
SPACE = {
    "fraction": {"low": 0.2, "high": 0.8, "log": True},
    "criterion": {"choices": ["toy_order", "medcore"]},
    "slope_stem": 0.5,
    "order": {"choices": ["together", "toy_heads_first"]},
}
OBJECTIVES = [{"name": "flops", "direction": "min"}, {"name": "toy_area", "direction": "max"}]
SEARCH = {
    "trials": 3,
    "concurrency": 1,
    "sampler": "toy_random",
    "scheduler": "none",
    "objectives": OBJECTIVES,
    "space": SPACE,
    "warm_starts": {"dense": False, "knapsack": [], "uniform": [], "rule": [0.6]},
}


@pytest.fixture(scope="module")
def shell() -> Iterator[CommandServer]:
    """A process that has imported the user's modules."""
    with CommandServer(environment() | {PLUGINS: "tests.support.toy.arch,tests.support.toy.plugins"}) as found:
        yield found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, shell: CommandServer) -> Path:
    """A finished search of three trials over the toy architecture."""
    folder = tmp_path_factory.mktemp("toy")
    config = write_tiny_study(folder, search=SEARCH, budget={"allocator": "toy_half"})
    for seed, name in enumerate(("base", "adapted")):
        torch.manual_seed(seed)
        save(folder / f"{name}.safetensors", build(ModelSpec.dense(TOY)))
    done = shell.medcore("search", config, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "tiny"


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, "tests.support.toy.arch,tests.support.toy.plugins")


def test_trials_prune_the_families_of_the_architecture(study: Path) -> None:
    rows = pd.read_parquet(study / "trials.parquet")
    assert rows["status"].tolist() == ["done"] * 3, rows["reason"].tolist()
    for _, row in rows.iterrows():
        spec = ModelSpec.of(TOY, {family.name: [int(kept) for kept in row[family.name]] for family in TOY.families})
        assert cost(spec).flops == row["flops"] and not spec.is_dense
    assert set(rows["param/criterion"]) <= {"toy_order", "medcore"} and rows["param/slope_stem"].eq(0.5).all()
    assert rows["toy_area"].between(0, 1).all()
    images = pd.read_parquet(study / "images.parquet")
    assert {"toy_area", "dice"} <= {*images.columns}


def test_scores_and_states_name_the_families(study: Path) -> None:
    (table,) = map(ScoreTable.load, (study.parent / "cache").glob("scores-*.safetensors"))
    assert list(table.families) == [family.name for family in TOY.families]
    assert table.widths("toy_heads") == TOY.heads and table.array("michel", "blocks").shape[-2:] == (3, 1)
    info = json.loads((study / "study.json").read_text())
    assert info["widths"] == ModelSpec.dense(TOY).budget
    assert [family["name"] for family in info["families"]] == [family.name for family in TOY.families]


def test_the_front_is_shown_and_a_member_exported(study: Path, shell: CommandServer, tmp_path: Path) -> None:
    front = shell.medcore("front", study, "--json", "--out", tmp_path / "front", cwd=tmp_path)
    assert front.returncode == 0, front.stderr
    member = json.loads(front.stdout)["front"][0]
    assert (tmp_path / "front" / "front.png").is_file()
    out = tmp_path / "toy.safetensors"
    rule = f"trial:{member['trial_id']}"
    done = shell.medcore("export", study, "--select", rule, "--out", out, "--no-latency", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = load(out)
    assert model.spec.budget == {family.name: member[family.name] for family in TOY.families}
    card = out.with_name("toy.card.md").read_text()
    assert "Toy heads" in card and "Stem channels" in card
    with torch.no_grad():
        logits = model.segment(torch.rand(1, 3, 64, 64), torch.tensor([[8.0, 8.0, 40.0, 48.0]]))
    assert logits.shape == (1, 1, TOY.low_res, TOY.low_res) and np.isfinite(logits.numpy()).all()


def test_schedules_take_the_users_own_allocator(study: Path, shell: CommandServer, tmp_path: Path) -> None:
    out = tmp_path / "pruned.safetensors"
    done = shell.medcore("prune", study.parents[1] / "tiny.yaml", "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stem" in done.stdout
    share = cost(load(out).spec).flops_paper / cost(ModelSpec.dense(TOY)).flops_paper
    assert abs(share - 0.5) < 0.01


def test_a_module_that_cannot_be_imported_is_one_line(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, "tests.support.no_such_module")
    done = medcore_program("prune", study.parents[1] / "tiny.yaml")
    assert done.returncode == 2
    assert "no_such_module" in done.stderr and len(done.stderr.splitlines()) == 1
