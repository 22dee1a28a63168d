"""The loader that is copied next to an exported model. It does not import medcore, and medcore does not import it."""

from __future__ import annotations

from pathlib import Path

#: The file to copy.
SCRIPT = Path(__file__).with_name("load_pruned.py")
