"""How threads of OpenMP wait for work. torch's runtime reads it once, when torch is loaded.

GNU's runtime, which torch uses on Linux, lets idle threads spin for milliseconds before they sleep. On a busy machine
that takes the processor from the thread that they wait for.
"""

from __future__ import annotations

import os

#: Rounds that an idle thread spins, about 50 microseconds. GNU's default is 300000, about 8 milliseconds.
_BOUND = {"GOMP_SPINCOUNT": "1000"}
#: The variables by which a user decides.
_NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def waiting() -> dict[str, str]:
    """Return the environment variables that bound the spinning.

    They are the user's own if this process has any.
    """
    return {name: os.environ[name] for name in _NAMES if name in os.environ} or dict(_BOUND)


def bound_spinning() -> None:
    """Bound the spinning in this process and in those that it starts.

    Call it before torch is imported.
    """
    os.environ.update(waiting())
