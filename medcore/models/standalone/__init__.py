"""The loader that goes beside an exported model; it imports nothing of medcore and nothing of medcore imports it."""

from __future__ import annotations

from pathlib import Path

#: The file to copy.
SCRIPT = Path(__file__).with_name("load_pruned.py")
