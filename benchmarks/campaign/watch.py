"""An eyewitness of a study: looks at its row files many times a second and trusts nothing but what it saw."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class _Seen:
    inode: int
    changed_ns: int
    digest: str


@dataclass
class Witness:
    """`rewritten`, `vanished`, `half_written`: trials whose row was not final when it appeared."""

    study: Path
    rewritten: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    half_written: set[str] = field(default_factory=set)
    _seen: dict[str, _Seen] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self._seen)

    def look(self) -> None:
        present = set()
        for path in self.study.glob("trials/*/row.json"):
            name = path.parent.name
            present.add(name)
            status, before = path.stat(), self._seen.get(name)
            if before is not None and (before.inode, before.changed_ns) == (status.st_ino, status.st_ctime_ns):
                continue
            data = path.read_bytes()
            if not _is_whole(data, name):
                self.half_written.add(name)
            if before is not None:
                self.rewritten.add(name)
            self._seen[name] = _Seen(status.st_ino, status.st_ctime_ns, hashlib.sha256(data).hexdigest())
        self.vanished |= self._seen.keys() - present

    def changed_since(self) -> set[str]:
        """Trials whose row's bytes are not those that were seen first."""
        return {
            name
            for name, seen in self._seen.items()
            if hashlib.sha256((self.study / "trials" / name / "row.json").read_bytes()).hexdigest() != seen.digest
        }


def _is_whole(data: bytes, name: str) -> bool:
    try:
        row = json.loads(data)
    except ValueError:
        return False
    return isinstance(row, dict) and row.get("trial_id") == name and row.get("status") in ("done", "failed", "stopped")
