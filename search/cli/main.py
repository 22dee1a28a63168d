"""The command line. A command reads its arguments, calls the function of the same name in `search.commands`, prints."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from medcore.errors import MedcoreError, brief
from search.cli import analyses, models, studies
from search.cli.cluster import cluster
from search.cli.terminal import errors
from search.nodes.openmp import bound_spinning

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
    shows_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compress promptable medical segmentation models without losing the boundary."""


@app.command()
def demo(folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path("runs/demo")) -> None:
    """Run the whole path on embedded data with a small model.

    Train a pair, search, show the front, export, and compare.
    """
    from search.cli.demo import demo as run

    run(folder)


# `medcore --help` lists the commands in this order
for command in (
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

    A `MedcoreError` or a lack of GPU memory becomes one line and exit code 2.
    """
    bound_spinning()  # before a command imports torch
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_time=False, show_path=False)],
    )
    try:
        app(standalone_mode=True)
    except MedcoreError as error:
        sys.stderr.write(f"medcore: {error}\n")
        sys.exit(2)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        sys.stderr.write(
            f"medcore: out of GPU memory ({brief(error, first=120)}); lower recovery.batch_size (adapt.batch_size, "
            "finetune.batch_size) or set recovery.autocast (adapt.autocast, finetune.autocast) to true\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _out_of_memory(error: RuntimeError) -> bool:
    # imported here, so that `medcore --help` does not load torch
    import torch

    return isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    main()
