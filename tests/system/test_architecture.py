"""Who may import whom: the rooms of the house stay apart."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "medcore": {
        "ray",
        "optuna",
        "mlflow",
        "typer",
        "rich",
        "pandas",
        "pyarrow",
        "plotly",
        "matplotlib",
        "onnxruntime",
        "search",
        "results",
    },
    "results": {"ray", "optuna", "mlflow", "typer", "rich", "search"},
}
#: The standalone loader and the code of an MLflow model are copied out of the project, so they stand beside the one
#: importer.
ONLY = {
    "mlflow": {"search/tracking/mlflow_client.py", "search/export/pyfunc_model.py"},
    "segment_anything": {"medcore/models/sam.py", "medcore/models/standalone/load_pruned.py"},
}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_does_not_know_what_is_built_on_it(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    guilty = {path.name: bad for path in files if (bad := imports(path) & FORBIDDEN[room])}
    assert not guilty


@pytest.mark.parametrize("package", ONLY)
def test_package_has_one_importer(package: str) -> None:
    files = [path for room in ("medcore", "search", "results") for path in (ROOT / room).rglob("*.py")]
    importers = {str(path.relative_to(ROOT)) for path in files if package in imports(path)}
    assert importers == ONLY[package]


def test_a_front_opens_without_waiting_for_the_heavy_packages() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna", "plotly", "matplotlib")
    code = (
        f"import sys, search.cli.main, search.commands.front; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
