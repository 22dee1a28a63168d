"""Progress bars of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from search.cli.terminal import errors


@contextmanager
def job_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each job, one after the other.

    Yields a function of the job's name, and its finished and all pieces.
    """
    with ExitStack() as stack:
        bars: dict[str, Callable[[int, int], None]] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = stack.enter_context(progress_bar(name))
            bars[name](done, total)

        yield update


@contextmanager
def progress_bar(title: str = "scoring") -> Iterator[Callable[[int, int], None]]:
    """Show a bar from the first finished piece of work to the last.

    Yields a function of finished and all pieces.
    """
    bar = Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=errors)
    task = bar.add_task(title, total=None)

    def update(done: int, total: int) -> None:
        if done < total and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total and bar.live.is_started:
            bar.stop()

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
