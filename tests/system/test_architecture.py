"""Commands that only read results start without the heavy packages, and the families of groups have few homes.

`make lint` checks who may import whom.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.machines.sharing import GROUPS

ROOT = Path(__file__).resolve().parents[2]


def test_a_front_opens_without_waiting_for_the_heavy_packages() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna", "plotly", "matplotlib")
    code = (
        f"import sys, search.cli.main, search.commands.front; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_line_needs_nothing_heavy() -> None:
    heavy = ("torch", "ray", "numpy", "pandas", "pydantic", "typer")
    code = f"import sys, search.cli.start; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_that_share_a_process_exist() -> None:
    assert [file for files in GROUPS.values() for file in files if not (ROOT / file).is_file()] == []


def test_only_descriptions_of_architectures_name_heads_and_channels() -> None:
    """Everything else loops over an architecture's sites, whatever their families are."""
    files = [path for package in ("medcore", "search", "results") for path in (ROOT / package).rglob("*.py")]
    named = [path for path in files if re.search(r"\b(heads|channels)\b", path.read_text(encoding="utf-8"))]
    assert {path.relative_to(ROOT).parts[:2] for path in named} == {("medcore", "models")}
    assert len(named) <= 8
