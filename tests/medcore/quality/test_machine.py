"""Conditions of a measurement, against programs that do take the processors."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from medcore.quality.machine import Moment, conditions_since
from medcore.quality.timing import Conditions


def test_a_machine_whose_processors_are_taken_is_called_busy() -> None:
    spin = [sys.executable, "-S", "-c", "print('ready', flush=True)\nwhile True: pass"]
    programs = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for program in programs:
            assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        start = Moment()
        while time.perf_counter() - start.wall < 0.8:
            pass
        found = conditions_since(start)
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    assert found.waited is not None and found.waited > 0.2
    assert found.others is not None and found.others > 0.2
    assert "busy" in found.trouble


def test_nothing_is_said_where_the_system_tells_nothing() -> None:
    assert Conditions().trouble == "" and Conditions(waited=0.01, others=0.1).trouble == ""
