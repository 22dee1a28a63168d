"""Likely mistakes at the command line: one line that names the problem, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from search.cli import main as cli
from tests.support.machines.command_line import medcore, medcore_program
from tests.support.studies.rows import write_study
from tests.support.studies.study_files import write_tiny_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("wrong"))


def unknown_key(config: Path, folder: Path) -> list[str | Path]:
    path = folder / "bad.yaml"
    path.write_text(config.read_text() + "\nserach: {}\n")
    return ["search", path]


def missing_checkpoint(config: Path, folder: Path) -> list[str | Path]:
    path = folder / "bad.yaml"
    path.write_text(config.read_text().replace("adapted.safetensors", "absent.safetensors"))
    return ["search", path]


def wrong_architecture(config: Path, folder: Path) -> list[str | Path]:
    path = folder / "bad.yaml"
    path.write_text(config.read_text().replace("model:\n", "model:\n  architecture: vit_b\n"))
    return ["score", path]


def truncated_checkpoint(config: Path, folder: Path) -> list[str | Path]:
    path = folder / "half.safetensors"
    path.write_bytes((config.parent / "adapted.safetensors").read_bytes()[:5000])
    return ["evaluate", path, "--data", config.parent / "polyps", "--split", "val"]


def missing_folder(config: Path, folder: Path) -> list[str | Path]:
    return ["evaluate", config.parent / "adapted.safetensors", "--data", folder / "absent", "--split", "val"]


def unknown_split(config: Path, folder: Path) -> list[str | Path]:
    return ["evaluate", config.parent / "adapted.safetensors", "--data", config.parent / "polyps", "--split", "tset"]


def only_empty_masks(config: Path, folder: Path) -> list[str | Path]:
    for name in ("images", "masks"):
        (folder / "data" / name).mkdir(parents=True)
        Image.new("L", (32, 32)).save(folder / "data" / name / "a.png")
    return ["evaluate", config.parent / "adapted.safetensors", "--data", folder / "data", "--split", "all"]


def no_study(config: Path, folder: Path) -> list[str | Path]:
    return ["front", folder / "absent"]


def box_outside(config: Path, folder: Path) -> list[str | Path]:
    image = next((config.parent / "polyps" / "images").iterdir())
    box = ["--box", "10,10,500,500"]
    return ["predict", config.parent / "adapted.safetensors", image, *box, "--out", folder / "mask.png"]


def unwritable_output(config: Path, folder: Path) -> list[str | Path]:
    (folder / "file").write_text("a file where a folder is wanted")
    path = folder / "bad.yaml"
    path.write_text(config.read_text().replace(str(config.parent / "runs"), str(folder / "file" / "runs")))
    return ["search", path]


def table_without_budgets(config: Path, folder: Path) -> list[str | Path]:
    objectives = [{"name": "flops", "direction": "min"}]
    info = {"name": "s", "objectives": objectives, "reference": {"flops": 2.0}, "dense": {"flops": 1.0}}
    write_study(folder, info | {"widths": {"heads": 3, "channels": 8}})
    row = {"trial_id": "t0000", "number": 0, "status": "done", "flops": 1.0}
    pd.DataFrame([row]).to_parquet(folder / "trials.parquet")
    return ["front", folder]


def cluster_at_no_port(config: Path, folder: Path) -> list[str | Path]:
    return ["search", config, "--ray-address", "localhost:99999"]


def unknown_architecture(config: Path, folder: Path) -> list[str | Path]:
    return ["cost", "vit_x"]


CASES: list[tuple[Callable[[Path, Path], list[str | Path]], str]] = [
    (unknown_key, "unknown key 'serach'"),
    (missing_checkpoint, "absent.safetensors"),
    (wrong_architecture, "vit_b"),
    (truncated_checkpoint, "half.safetensors"),
    (missing_folder, "absent"),
    (unknown_split, "tset"),
    (only_empty_masks, "foreground"),
    (no_study, "absent"),
    (box_outside, "--box"),
    (unwritable_output, "file"),
    (unknown_architecture, "vit_x"),
    (table_without_budgets, "trial t0000 has no heads, channels, origin"),
    (cluster_at_no_port, "cannot reach Ray at localhost:99999"),
]


@pytest.mark.parametrize(("case", "names"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_mistake_is_one_line(
    case: Callable[[Path, Path], list[str | Path]], names: str, study: Path, tmp_path: Path
) -> None:
    run = medcore_program if case is missing_checkpoint else medcore
    result = run(*case(study, tmp_path))
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("medcore: ")]
    assert len(lines) == 1 and names in lines[0]
    assert "Traceback" not in result.stderr + result.stdout


def test_a_full_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB.")

    monkeypatch.setattr("search.commands.cost.cost", full)
    monkeypatch.setattr(sys, "argv", ["medcore", "cost", "vit_b"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    message = capsys.readouterr().err
    assert (
        caught.value.code == 2 and message.count("\n") == 1 and message.startswith("medcore: out of GPU memory (CUDA")
    )
    for setting in ("recovery.batch_size", "adapt.batch_size", "recovery.autocast"):
        assert setting in message


def test_errors_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("search.commands.cost.cost", wrong)
    monkeypatch.setattr(sys, "argv", ["medcore", "cost", "vit_b"])
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()
