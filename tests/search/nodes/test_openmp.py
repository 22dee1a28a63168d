"""Threads of OpenMP: the bound is there before torch, in commands and in Ray's workers, and a user's value wins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.nodes.openmp import bound_spinning, waiting
from tests.support.studies.study_files import environment

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

#: Runs a command up to its first import of torch, and prints the variables as they are then.
UP_TO_TORCH = f"""
import json, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(json.dumps({{key: os.environ[key] for key in {NAMES} if key in os.environ}}))
            raise SystemExit

sys.meta_path.insert(0, Watch())
sys.argv = ["medcore", "evaluate", "m.safetensors", "--data", "d", "--split", "all"]
from search.cli.main import main
main()
"""


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in environment().items() if key not in NAMES}


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_a_command_sets_the_bound_before_it_imports_torch(own: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UP_TO_TORCH],
        env=clean_environment() | own,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    found = json.loads(done.stdout)
    if own:
        assert found == own
    else:
        assert found.keys() == {"GOMP_SPINCOUNT"} and 0 < int(found["GOMP_SPINCOUNT"]) < 300_000  # GNU's default


def test_a_process_hands_on_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    ours = waiting()
    assert ours.keys() == {"GOMP_SPINCOUNT"} and "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert waiting() == {"OMP_WAIT_POLICY": "passive"}
    bound_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("GOMP_SPINCOUNT", "9")
    assert waiting() == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "9"}
