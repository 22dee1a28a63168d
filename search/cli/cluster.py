"""`medcore cluster`: searches as jobs of a Ray cluster, from a machine that need not be part of it.

Typer reads the options of a command from its parameters, so `submit` has more of them than other functions.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from search.base.config import load_config
from search.base.shell import option_words, program
from search.cli.terminal import LOADING, say
from search.cli.terminal import status as shown

cluster = typer.Typer(no_args_is_help=True, help="A search as a job of a running Ray cluster.")

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration with absolute paths that all nodes see.")]
Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard; its token is Ray's own.")
]
JobId = Annotated[str, typer.Argument(help="Id of a job, as `submit` prints it.")]
_ADDRESS = "http://127.0.0.1:8265"


# one parameter per option, as typer wants them
@cluster.command()
def submit(
    config: ConfigPath,
    address: Address = _ADDRESS,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow server, as the cluster reaches it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a study that was interrupted.")] = False,
    folder: Annotated[Path, typer.Option(help="Folder to send along, without data, checkpoints and results.")] = Path(),
    pip: Annotated[
        bool, typer.Option("--pip/--no-pip", help="Install constraints.txt on each node; else its image has it all.")
    ] = False,
    constraints: Annotated[Path | None, typer.Option(help="File for --pip; default: the repository's own.")] = None,
) -> None:
    """Send a search to the cluster and return.

    The search runs there without this machine.
    """
    shown.doing("sending the search to the cluster", logged=False)
    from search.commands.cluster import jobs
    from search.tracking.trackers import given_tracking

    settings = load_config(config)
    given = given_tracking(config, settings.tracking, tracking_uri)
    options = {"trials": trials, "name": name, "tracking_uri": given}
    root = Path(__file__).resolve().parents[2]
    command = [program("medcore"), "cluster"]
    again = [*command, "submit", str(config), "--address", address, *option_words(options)]
    again += [*(["--folder", str(folder)] if folder != Path() else []), *(["--pip"] if pip else []), "--resume"]
    job = jobs.submit(
        settings,
        address,
        options,
        resume,
        folder=folder.absolute(),
        resume_command=shlex.join(again),
        constraints=(constraints or root / "constraints.txt") if pip else None,
    )
    say(f"submitted {job}")
    for verb, *more in (["status"], ["logs", "--follow"], ["stop"]):
        say(f"{verb:7} {shlex.join([*command, verb, job, *more, '--address', address])}")
    say(f"resume  {shlex.join(again)}")


@cluster.command()
def status(
    job: Annotated[str | None, typer.Argument(help="Id of a job; default: all.")] = None, address: Address = _ADDRESS
) -> None:
    """State of one job, or of all."""
    shown.doing("asking the cluster", logged=False)
    from search.commands.cluster import jobs

    listed = jobs.status(address, job)
    for item in listed:
        say("  ".join(part for part in (item.id, item.status, item.started, item.study) if part))
        if job is not None:
            say(item.message)
    if not listed:
        say("no jobs")


@cluster.command()
def logs(
    job: JobId,
    address: Address = _ADDRESS,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends; Ctrl-C leaves it running.")] = False,
) -> None:
    """What a job prints."""
    shown.doing("asking the cluster", logged=False)
    from search.commands.cluster import jobs

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    shown.end()  # the job's text may hold control codes
    jobs.logs(address, job, follow, write)


@cluster.command()
def stop(job: JobId, address: Address = _ADDRESS) -> None:
    """Stop a job as Ctrl-C would; `submit --resume` resumes its study."""
    shown.doing("asking the cluster", logged=False)
    from search.commands.cluster import jobs

    say(f"{job}: {'stopping' if jobs.stop(address, job) else 'has ended already'}")


@cluster.command()
def check(
    config: ConfigPath,
    ray_address: Annotated[str, typer.Option(help="The cluster, seen from one of its nodes.")] = "auto",
) -> None:
    """Check what a search checks before its first trial.

    The checks cover versions, data, checkpoints, study folder, GPU memory and tracking.
    """
    shown.doing(LOADING, logged=False)
    from search.commands.search import check_nodes as run
    from search.tracking.trackers import given_tracking

    settings = load_config(config)
    given_tracking(config, settings.tracking, None)
    shown.doing("checking the tracker and the nodes")
    say(f"{run(settings, ray_address)} nodes are ready")
