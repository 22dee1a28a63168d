"""The command line. A command reads its arguments, calls the function of the same name in `search.commands`, prints."""

from __future__ import annotations

import io
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from medcore.errors import MedcoreError, brief, one_line, printable
from search.cli import analyses, models, setup, studies
from search.cli.cluster import cluster
from search.cli.terminal import LOADING, LineHandler, status
from search.nodes.openmp import bound_spinning

#: A mistake in the options of a command. typer has the class, but exports only its children.
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medcore {version('medcore-search')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    shows_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compress promptable medical segmentation models without losing the boundary."""
    context.call_on_close(status.end)


@app.command()
def demo(folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path("runs/demo")) -> None:
    """Run the whole path on embedded data with a small model.

    Train a pair, search, show the front, export, and compare.
    """
    status.doing(LOADING, logged=False)
    from search.cli.demo import demo as run

    run(folder)


# `medcore --help` lists the commands in this order
for command in (
    setup.init,
    setup.check,
    models.adapt,
    models.score,
    models.prune,
    studies.search,
    studies.front,
    studies.compare,
    studies.report,
    studies.sync,
    studies.export,
    models.evaluate,
    models.cost,
    models.latency,
    analyses.leverage,
    analyses.analyse,
    models.predict,
):
    app.command()(command)
app.add_typer(cluster, name="cluster")


def main() -> None:
    """Run the command line.

    What the user or the machine can mend becomes one line and exit code 2: a `MedcoreError`, a mistake in the options,
    a lack of GPU memory, and a file or folder that the system refuses.
    """
    bound_spinning()  # before a command imports torch
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, handlers=[LineHandler()])
    try:
        code = _run()
    except MedcoreError as error:
        _end(str(error))
    except _UsageError as error:
        _end_usage(error)
    except typer.Abort:
        sys.exit(1)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        _end(
            f"out of GPU memory ({brief(error, first=120)}); lower recovery.batch_size (adapt.batch_size, "
            "finetune.batch_size) or set recovery.autocast (adapt.autocast, finetune.autocast) to true"
        )
    except OSError as error:
        _end(f"{error.filename or 'the system'}: {brief(error.strerror or error, first=200)}; mend that and try again")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> Any:
    try:
        return app(standalone_mode=False)
    finally:
        status.end()


def _end(message: str) -> NoReturn:
    sys.stderr.write(f"medcore: {printable(message)}\n")
    sys.exit(2)


def _end_usage(error: Any) -> NoReturn:
    """End after a mistake in the options. Without any options the help has been shown, and there is no message."""
    message = one_line(error.format_message()).rstrip(".?")
    if not message:
        sys.exit(2)
    where = "medcore" if error.ctx is None else error.ctx.command_path
    _end(f"{message}; see `{where} --help`")


def _out_of_memory(error: RuntimeError) -> bool:
    # imported here, so that `medcore --help` does not load torch
    import torch

    return isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    main()
