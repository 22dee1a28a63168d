"""Rounds that have been played, one JSON line each; written as soon as a round has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.campaign.machines import SetupError
from benchmarks.campaign.rounds import Round


class Record:
    """Round 0 is the undisturbed search.

    Raises `SetupError` if the folder holds rounds of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._path, self.settings = folder / "rounds.jsonl", dict(settings)
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        entries = [json.loads(line) for line in lines]
        if any(entry["settings"] != self.settings for entry in entries):
            raise SetupError(f"{self._path}: has rounds of other settings; give another --out")
        self.rounds: dict[int, dict[str, Any]] = {entry["round"]: entry for entry in entries}

    def add(self, number: int, result: Round) -> dict[str, Any]:
        entry = {"round": number, "settings": self.settings, **asdict(result)}
        self.rounds[number] = entry
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return entry

    @property
    def clean(self) -> bool:
        """Whether no round has a finding."""
        return not any(found for entry in self.rounds.values() for found in entry["findings"].values())
