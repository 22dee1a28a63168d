"""Likely mistakes are found before torch, Ray or an image is touched: one line, exit code 2."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medcore.errors import ConfigError
from search.base.config import load_config
from search.commands.before import quick
from search.commands.before.checks import Check, Found, require, run_checks
from search.commands.before.quick import require_quick
from search.nodes.problems import ManyProblems
from search.trials.ledger import IssuedTrial, write_issued
from tests.support.helpers import held_port
from tests.support.machines.command_line import medcore
from tests.support.studies.study_files import environment, own_polyps, write_tiny_study

Values = dict[str, Any]


def changed(folder: Path, change: Callable[[Values], None]) -> Path:
    config = write_tiny_study(folder)
    values = yaml.safe_load(config.read_text())
    change(values)
    config.write_text(yaml.safe_dump(values))
    return config


def keep_images(folder: Path, count: int) -> Path:
    """Leave so many images of an own copy of the data."""
    polyps = own_polyps(folder)
    (polyps / "splits.json").unlink(missing_ok=True)
    for file in sorted((polyps / "images").iterdir())[count:]:
        file.unlink()
    return polyps


def label_maps(folder: Path) -> None:
    """Give masks two objects, and the ending `_mask`."""
    for file in list((own_polyps(folder) / "masks").iterdir()):
        values = (np.asarray(Image.open(file)) > 0).astype(np.uint8)
        values[0, :2] = 1, 2
        file.unlink()
        Image.fromarray(values).save(file.with_name(f"{file.stem}_mask.png"))


def other_names(folder: Path) -> None:
    for file in list((own_polyps(folder) / "masks").iterdir()):
        file.rename(file.with_name(f"{file.stem}_roi{file.suffix}"))


Mistake = tuple[Callable[[Values], None], Callable[[Path], object], str]
MISTAKES: dict[str, Mistake] = {
    "unknown objective": (
        lambda values: values["search"].update(objectives=[{"name": "boundry_f1", "direction": "max"}]),
        lambda folder: None,
        "unknown objective boundry_f1 (did you mean boundary_f1?); known are flops_fraction,",
    ),
    "missing base": (
        lambda values: values["model"].update(base="absent/sam.pth"),
        lambda folder: None,
        "model.base: ",
    ),
    "wrong folder": (
        lambda values: values["data"].update(folders=["absent"]),
        lambda folder: None,
        "absent: No such file or directory; a data folder holds images/",
    ),
    "names of masks": (
        lambda values: None,
        other_names,
        "the masks are called NAME_roi, which is no ending of masks; call them NAME or NAME_mask",
    ),
    "masks without data.labels": (
        lambda values: None,
        label_maps,
        "a label map with the values 0, 1, 2; say by data.labels which of them are the object",
    ),
    "starting point": (
        lambda values: values["search"].update(warm_starts={"knapsack": [0.01]}),
        lambda folder: None,
        "search.warm_starts.knapsack: 0.01 of the flops_paper is out of reach, because 0.1534 of tiny is left",
    ),
    "side": (
        lambda values: values["model"].update(side=60),
        lambda folder: None,
        "a square of 60 pixels does not fit tiny, whose own has 64: img_size 60 is no multiple of patch_size",
    ),
    "output": (
        lambda values: values.update(output=values["model"]["base"]),
        lambda folder: None,
        "base.safetensors is no folder; choose another `output`",
    ),
    "key": (
        lambda values: values["search"].update(trails=3),
        lambda folder: None,
        "unknown key 'search.trails', did you mean 'trials'?",
    ),
    "too few images": (
        lambda values: None,
        lambda folder: keep_images(folder, 3),
        "too few images: none is left for data.report_split 'val/report' (polyps has all 3, train 2, val 1",
    ),
    "GPU": (
        lambda values: values["search"].update(gpus_per_trial=1),
        lambda folder: None,
        "search.gpus_per_trial is 1, but this machine shows no GPU; set it to auto or 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "has_gpu", lambda: False)
    change, prepare, words = MISTAKES[name]
    config = changed(tmp_path, change)
    prepare(tmp_path)
    done = medcore("search", config)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("medcore: ") and done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_server_and_a_cluster_that_do_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with held_port() as port:
        uri = f"http://me:secret@127.0.0.1:{port}"
        config = changed(tmp_path, lambda values: values.update(tracking={"uri": uri}))
        done = medcore("search", config, "--ray-address", f"127.0.0.1:{port}")
        assert done.returncode == 2 and "there are 2 problems" in done.stderr and "secret" not in done.stderr
        assert f"tracking.uri: nothing answers at http://127.0.0.1:{port}; start it or fix its address" in done.stderr
        assert f"cannot reach Ray at 127.0.0.1:{port}: nothing listens there" in done.stderr
        write_issued(tmp_path / "runs" / "tiny", IssuedTrial("t0000", 0, 1, "dense", {}))
        require_quick(load_config(config))  # a study that has trials continues without its server
        # a proxy alone knows whether the server answers
        monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "http://proxy:3128"})
        other = load_config(config).model_copy(update={"study": "other"})
        require_quick(other)


@pytest.mark.parametrize("uri", ["http://[bad:5000", "http://host:port"])
def test_an_address_that_is_none_is_one_line(uri: str, tmp_path: Path) -> None:
    done = medcore("search", changed(tmp_path, lambda values: values.update(tracking={"uri": uri})))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"medcore: tracking.uri: {uri}: ") and "mend the address" in done.stderr


def test_a_study_that_exists_is_resumed_only_if_the_user_says_so(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    write_issued(folder, IssuedTrial("t0000", 0, 1, "dense", {}))
    (folder / "config.yaml").write_text(config.read_text())
    done = medcore("search", config)
    assert done.returncode == 2 and "this study exists; add --resume to continue it" in done.stderr
    require_quick(load_config(config), resume=True)


def test_defaults_out_of_reach_are_skipped_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = changed(tmp_path, lambda values: values["search"].pop("warm_starts"))
    with caplog.at_level(logging.WARNING):
        notes = require_quick(load_config(config))
    assert notes[0].startswith("search.warm_starts: skipped knapsack 0.05, 0.06, 0.08, 0.1, 0.15 of the flops_paper")
    assert [record.message for record in caplog.records] == list(notes)


def test_few_images_and_an_odd_direction_are_notes(tmp_path: Path) -> None:
    config = changed(
        tmp_path, lambda values: values["search"].update(objectives=[{"name": "dice", "direction": "min"}])
    )
    assert require_quick(load_config(config)) == (
        "search.objectives: dice has direction min, but more is better",
        "only 10 search images: single images decide which trial is better, so add images if you can",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"weights", "neither safetensors nor a file of torch.save"),
        (b"PK\x03\x04 and no more", "cut off"),
        (b"\x80\x00\x00\x00\x00\x00\x00\x00{" + b"x" * 127, "damaged header of safetensors"),
    ],
)
def test_checkpoints_that_are_none(content: bytes, words: str, tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    (tmp_path / "base.safetensors").write_bytes(content)
    done = medcore("search", config)
    assert done.returncode == 2 and words in done.stderr and "base.safetensors" in done.stderr


def test_a_checkpoint_that_is_cut_off(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    whole = (tmp_path / "adapted.safetensors").read_bytes()
    (tmp_path / "adapted.safetensors").write_bytes(whole[:-10])
    done = medcore("search", config)
    assert f"adapted.safetensors: cut off after {len(whole) - 10} of {len(whole)} bytes" in done.stderr


def test_a_mistake_is_found_without_torch_ray_or_pandas(tmp_path: Path) -> None:
    label_maps_config = write_tiny_study(tmp_path)
    label_maps(tmp_path)
    program = (
        "import sys\nfrom search.cli.main import main\n"
        f"sys.argv = ['medcore', 'search', {str(label_maps_config)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, sorted({'torch', 'ray', 'pandas', 'mlflow'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2 []\n" and "a label map" in done.stderr


def test_checks_that_would_only_find_a_problem_again_are_left_out() -> None:
    def fails(subject: object) -> Found:
        raise ConfigError("no such thing")

    def system(subject: object) -> Found:
        raise PermissionError(13, "Permission denied", "/there")

    seen: list[tuple[str, int, int]] = []
    checks = [
        Check("one", fails),
        Check("two", lambda subject: Found("fine"), after=("one",)),
        Check("three", lambda subject: Found("fine", notes=("odd",)), after=("two",)),
        Check("four", system),
    ]
    found = run_checks(checks, None, lambda *words: seen.append(words), known={"four": Found("before")})
    assert [each.text for each in found.values()] == ["", "", "not checked because of one", "fine"]
    assert list(found) == ["four", "one", "two", "three"]
    assert found["four"].problems == ("/there: Permission denied; mend that",)
    assert seen == [("checks", done, 4) for done in range(5)]
    with pytest.raises(ManyProblems, match=r"there are 2 problems: \(1\) /there.*\(2\) no such thing"):
        require(found.values())
    with pytest.raises(ConfigError, match=r"^no such thing$"):
        require([found["one"], found["two"], found["one"]])
    # a check that is left out keeps what an earlier one of its name has found
    assert run_checks([Check("a", fails, after=("a",))], None, known={"a": found["one"]})["a"] is found["one"]
