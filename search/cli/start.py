"""Entry point of `medcore`: says at once that it loads. The commands' own imports take a second, torch and Ray more."""

from __future__ import annotations

import gc
import sys

from search.cli.terminal import LOADING, status


def main() -> None:
    """Run the command line; see `search.cli.main.main`."""
    words = sys.argv[1:]
    if words and not words[0].startswith("-") and "--help" not in words:
        status.doing(LOADING, logged=False)
    try:
        from search.cli.main import main as run
    except KeyboardInterrupt:
        status.end()
        sys.exit(130)
    try:
        run()
    finally:
        gc.freeze()  # the interpreter's last collection would look at all objects of torch and Ray, for seconds
