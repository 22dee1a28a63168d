"""Commands that answer questions about the method: leverage, analyse."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from medcore.files import refuse_links
from search.base.config import load_config
from search.cli.options import ConfigPath, Fractions, Json, RayAddress
from search.cli.terminal import LOADING, print_result, say, status


def leverage(
    config: ConfigPath,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: leverage/ in the study's folder.")] = None,
    images: Annotated[int, typer.Option(min=1, help="How many of the search images are used.")] = 32,
    as_json: Json = False,
) -> None:
    """Boundary leverage over a grid of sparsities, head steps against MLP steps."""
    status.doing(LOADING, logged=False)
    from search.cli.tables import leverage_table
    from search.commands.analyse.leverage import leverage as run

    settings = load_config(config)
    folder = out or settings.folder / "leverage"
    if out is None:
        refuse_links(settings.folder, folder.name)
    status.doing("reading checkpoints and images")
    result = run(settings, folder, status.report, images)
    print_result(result, as_json, lambda: leverage_table(result))
    if not as_json:
        say(f"wrote {folder}/leverage.parquet, leverage.json and leverage.png")


def analyse(
    kind: Annotated[str, typer.Argument(help="criteria | ablation | displacement | leverage")],
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and notes.")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    fractions: Annotated[
        Fractions | None, typer.Option(parser=Fractions.parse, metavar="<str>", help="FLOPs left, e.g. 0.3,0.15")
    ] = None,
    ray_address: RayAddress = None,
) -> None:
    """Compare criteria, predicted displacements or leverage on your checkpoints.

    Criteria can be compared whole or by their parts. An interrupted analysis resumes by itself.
    """
    status.doing(LOADING, logged=False)
    from search.commands.analyse.analyse import Analysis
    from search.commands.analyse.analyse import analyse as run

    words = ["medcore", "analyse", kind, str(config), "--out", str(out), "--seeds", str(seeds)]
    words += ["--fractions", fractions.text] if fractions and fractions.text else []
    analysis = Analysis(kind, range(seeds), fractions.shares if fractions else (), shlex.join(words))
    files = run(analysis, load_config(config), out, ray_address=ray_address, status=status, say=say)
    for file in files:
        say(f"wrote {file}")
