"""One search at a time writes to a study."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medcore.errors import MedcoreError
from search.base.lock import is_driven, only_driver
from tests.support.studies.study_files import environment


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from search.base.lock import only_driver\n"
        "with only_driver(Path(sys.argv[1])):\n    print(flush=True)\n    input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert other.stdout is not None
    other.stdout.readline()
    refusal = rf"another search is writing to this study \(process {other.pid} on"
    with pytest.raises(MedcoreError, match=refusal), only_driver(tmp_path):
        pass
    other.communicate("\n")
    with only_driver(tmp_path), only_driver(tmp_path):  # this process may hold it twice
        pass
    with only_driver(tmp_path):  # free again
        pass


def test_storage_without_locks_is_not_another_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(MedcoreError, match=r"cannot be locked \(Operation not supported\)"), only_driver(tmp_path):
        pass
    assert not is_driven(tmp_path)
