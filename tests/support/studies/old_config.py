"""The configuration of a study that was saved before second-order curves, refits and halving existed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parents[2] / "data" / "config_before_curves.yaml"


def old_config() -> dict[str, Any]:
    """Return all keys of that version with their defaults, as a study saved them."""
    values: dict[str, Any] = yaml.safe_load(_FILE.read_text())
    return values
