"""The files under cluster/ and the programs that check them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def name(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


def tool(program: str) -> str:
    """Return the path of a linter, which the development tools install next to this Python."""
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    assert found, f"{program} is missing: pip install -c constraints.txt -e '.[dev]'"
    return found


def complaints(*command: str) -> str:
    """Return a linter's output, or its exit status if it failed without output."""
    done = subprocess.run([tool(command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr or (f"exit status {done.returncode}" if done.returncode else "")
