"""Commands about a study: search, front, report, sync, export.

Typer reads the options of a command from its parameters, so `export` has more of them than other functions.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from medcore.errors import ConfigError
from search.base.config import Config, load_config, override
from search.base.sections.tracking import is_of_a_study
from search.base.shell import program, resume_command
from search.cli.options import ConfigPath, Json, RayAddress, Study, WorkersAddress
from search.cli.terminal import LOADING, print_result, say, show, status, warn

_TRACKING_HELP = (
    "MLflow server; default: tracking.uri of the configuration, else SQLite in the study. "
    "Its login goes into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
)
_Where = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow server or folder; default: the study's own file, or where the study went, if MLFLOW_TRACKING_URI "
        "names that too.",
    ),
]


def search(
    config: ConfigPath,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    ray_address: RayAddress = None,
    tracking_uri: Annotated[str | None, typer.Option(help=_TRACKING_HELP)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a study that was interrupted.")] = False,
) -> None:
    """Search budgets, scoring weights and recovery settings.

    Every trial goes to Parquet and MLflow.
    """
    status.doing(LOADING, logged=False)
    from search.commands.before.quick import require_quick

    settings = load_config(config)
    given = _given_tracking(config, settings, tracking_uri)
    settings = override(settings, trials=trials, name=name, tracking_uri=given)
    noted = require_quick(settings, ray_address, resume)

    # after these checks, because the imports take seconds
    from search.cli.tables import front_view
    from search.commands.front import front as read_front
    from search.commands.search import search as run

    command = resume_command(config, trials=trials, name=name, ray_address=ray_address, tracking_uri=tracking_uri)
    outcome = run(
        settings, resume=resume, ray_address=ray_address, command=command, status=status, say=say, noted=noted
    )
    folder = settings.folder
    if not outcome.complete or outcome.is_empty:
        raise typer.Exit(130 if outcome.interrupted else 1)
    show(front_view(read_front(str(folder))))
    again = shlex.join([program("medcore"), "front", str(folder)])
    take = shlex.join([program("medcore"), "export", str(folder), "--select", "knee", "--out", "best.safetensors"])
    say(f"next: {again}\n      {take}")


def _given_tracking(config: Path, settings: Config, tracking_uri: str | None) -> str | None:
    """Return the tracking address that the user gave, as `search.tracking.trackers.given_tracking` does."""
    if settings.tracking.uri is None or not is_of_a_study(config):
        return tracking_uri
    from search.tracking.trackers import given_tracking  # here, because it takes long to import

    return given_tracking(config, settings.tracking, tracking_uri)


def front(
    study: Study,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Folder for front.csv, .md, .html, .png and .svg.")] = None,
) -> None:
    """The Pareto front of a study, with its hypervolume."""
    status.doing("reading the study", logged=False)
    from search.cli.tables import front_view
    from search.commands.front import front as read_front
    from search.commands.front import write

    result = read_front(study)
    print_result(result.to_dict(), as_json, lambda: front_view(result))
    for file in write(study, out) if out is not None else ():
        warn(f"wrote {file}")


def compare(
    studies: Annotated[list[str], typer.Argument(help="Folders or mlflow:EXPERIMENT/RUN; the first is the standard.")],
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.csv, .md, .png and .svg.")] = None,
) -> None:
    """The fronts of several studies next to each other.

    Differences have intervals over the images that both studies measured.
    """
    status.doing("comparing studies", logged=False)
    from search.cli.tables import comparison_table
    from search.commands.compare import compare as run
    from search.commands.compare import write

    found, quality, table = run(studies)
    rows = [{key: None if value != value else value for key, value in row.items()} for row in table.to_dict("records")]
    print_result({"quality": quality.name, "rows": rows}, as_json, lambda: comparison_table(found, quality, table))
    for file in write(found, quality, table, out) if out is not None else ():
        warn(f"wrote {file}")


def report(
    study: Study,
    out: Annotated[Path, typer.Option(help="HTML file to write; it needs no network.")],
    images: Annotated[
        int, typer.Option(min=0, max=40, help="Rows of a contact sheet; 0: no picture of a patient in the file.")
    ] = 12,
    select: Annotated[
        list[str] | None, typer.Option(help="Rule for a model to look at, the chosen one first; may be repeated.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Put it, with its images, on the study's run in MLflow.")] = False,
    sheets: Annotated[
        Path | None, typer.Option(help="Folder for a contact sheet of every front member, as PNG files.")
    ] = None,
    tracking_uri: _Where = None,
) -> None:
    """Write a study's report as one HTML file.

    It shows question, data, front, worst cases and what the chosen model gives up.
    """
    status.doing("writing the report", logged=False)
    from search.commands.report.report import report as write

    notes = write(
        study, out, images=images, select=select or (), log=log, say=say, sheets=sheets, tracking_uri=tracking_uri
    )
    status.end()
    for note in notes:
        warn(note)
    say(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB")


def sync(
    study: Annotated[Path, typer.Argument(help="Folder of a study")],
    tracking_uri: _Where = None,
) -> None:
    """Send to MLflow what a search could not, because the server was away."""
    status.doing("sending trials", logged=False)
    from search.commands.sync import sync as run

    say(f"{run(study, tracking_uri, say)} trials are at the server")


# long because each option is a parameter with its help
def export(
    study: Annotated[str, typer.Argument(help="Folder of a study, or mlflow:EXPERIMENT/RUN, see docs/export.md")],
    out: Annotated[Path, typer.Option(help="File to write (.safetensors) or, for the other formats, folder.")],
    select: Annotated[
        str, typer.Option(help="knee | best:METRIC | METRIC<=X,… | trial:ID | front: all of the front, into a folder")
    ] = "knee",
    kind: Annotated[str, typer.Option("--format", help="Kind of file, see docs/export.md.")] = "checkpoint",
    dtype: Annotated[
        str | None, typer.Option(help="float32 | bfloat16 | float16; default: that of the study's adapted checkpoint.")
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="With --format mlflow: register it under this name at the study's MLflow server.")
    ] = None,
    held_out: Annotated[
        bool | None,
        typer.Option(
            "--held-out/--no-held-out",
            help="Measure it on data.report_split first, if that was not done; default: yes, but not all of a front.",
        ),
    ] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train it at full length first; resumes.")] = False,
    config: Annotated[Path | None, typer.Option(help="Take the `finetune` section from here, not the study.")] = None,
    time_it: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure time and memory, for the card.")
    ] = True,
    card: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="For the card's head, may be repeated: license, license_name, license_link, base_model, datasets.",
        ),
    ] = None,
    ray_address: WorkersAddress = None,
    tracking_uri: _Where = None,
) -> None:
    """Write the model of the trial that a rule selects, with a model card.

    Check the written file before it appears. With --select front, write every member of the front.
    """
    status.doing("exporting", logged=False)
    from results.stats.labels import text, title
    from search.cli.tables import exported_table
    from search.commands.export import FRONT, TABLE, ExportRequest, export_front
    from search.commands.export import export as write

    for name, value in {} if finetune else {"--config": config, "--ray-address": ray_address}.items():
        if value is not None:
            raise ConfigError(f"{name} is about fine-tuning; give it with --finetune")
    request = ExportRequest(
        study,
        out,
        select=select,
        format=kind,
        dtype=dtype,
        register=register,
        held_out=held_out,
        finetune=finetune,
        settings=None if config is None else load_config(config).finetune,
        latency=time_it,
        ray_address=ray_address,
        card=card or (),
        tracking_uri=tracking_uri,
    )
    if select == FRONT:
        done = export_front(request, say)
        show(exported_table(done))
        say(f"wrote {out / TABLE}")
        if any(each.problem for each in done):
            raise typer.Exit(1)
        return
    row = write(request, say)
    left = row.metrics["flops_fraction"]
    say(f"trial {row.trial_id} ({row.origin}): {title('flops_fraction')}: {text('flops_fraction', left)}")
    say(f"wrote {out}")  # one parameter per option, as typer wants them
