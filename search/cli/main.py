"""The command line: reads arguments, calls the function of the same name, prints. No logic of its own."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.text import Text

from medcore.errors import MedcoreError
from medcore.files import first_line
from search.base.config import Config, load_config, validate
from search.base.logins import hide_login
from search.base.provenance import RESUME_COMMAND
from search.cli.cluster import cluster
from search.cli.tables import evaluation_table, front_view, latency_table, leverage_table
from search.cli.terminal import console, errors, program, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compress promptable medical segmentation models without losing the boundary.",
)
app.add_typer(cluster, name="cluster")

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration; see search/configs/")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_TRACKING_HELP = (
    "MLflow server; default: where the study went before, else SQLite in the study. "
    "Its login goes into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
)
WorkersAddress = Annotated[
    str | None, typer.Option("--ray-address", help="Address of a running Ray cluster, where `workers` is above 1.")
]
Arch = Annotated[str | None, typer.Option(help="Architecture of a .pth without a JSON file beside it.")]


@app.command()
def demo(folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path("runs/demo")) -> None:
    """Embedded data, a small model, the whole path: train a pair, search, front, export, compare."""
    from search.cli.demo import demo as run

    run(folder)


@app.command()
def adapt(config: ConfigPath, ray_address: WorkersAddress = None) -> None:
    """General checkpoint + data -> medical checkpoint."""
    from search.commands.adapt import adapt as run

    def on_epoch(row: Any) -> None:
        say(f"epoch {row}")

    say(f"wrote {run(load_config(config), on_epoch, ray_address)}")


@app.command()
def score(config: ConfigPath) -> None:
    """Score every head and MLP channel; writes the score table and a heat map."""
    from search.commands.score import score as run

    with scoring_bar() as progress:
        table, picture = run(load_config(config), progress)
    say(f"wrote {table}\nwrote {picture}")


@app.command()
def prune(
    config: ConfigPath,
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write; default: in the study's folder.")] = None,
) -> None:
    """One schedule without a search -> checkpoint."""
    from search.commands.prune import prune as run

    settings = load_config(config)
    target = out or settings.folder / "pruned.safetensors"
    with scoring_bar() as progress:
        metrics = run(settings, target, progress)
    console.print(evaluation_table({"pruned": metrics}))
    say(
        f"removed {metrics['heads_removed']} heads and {metrics['channels_removed']} channels, "
        f"{1 - metrics['encoder_params_fraction']:.1%} of the encoder's parameters"
    )
    say(f"wrote {target}")


@app.command()
def search(
    config: ConfigPath,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help=_TRACKING_HELP)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study that was interrupted.")] = False,
) -> None:
    """Search budgets, scoring weights and recovery settings; every trial goes to Parquet and MLflow."""
    from search.commands.front import front as read_front
    from search.commands.search import search as run

    settings = override(load_config(config), trials=trials, name=name, tracking_uri=tracking_uri)
    command = resume_command(config, trials=trials, name=name, ray_address=ray_address, tracking_uri=tracking_uri)
    with scoring_bar() as progress:
        outcome = run(
            settings,
            resume=resume,
            ray_address=ray_address,
            command=command,
            progress=progress,
            say=say,
        )
    folder = settings.folder
    if not outcome.complete:
        raise typer.Exit(130 if outcome.interrupted else 1)
    console.print(front_view(read_front(str(folder))))
    look = shlex.join([program("medcore"), "front", str(folder)])
    take = shlex.join([program("medcore"), "export", str(folder), "--select", "knee", "--out", "best.safetensors"])
    say(f"next: {look}\n      {take}")


@app.command()
def front(
    study: Annotated[str, typer.Argument(help="Folder or mlflow:EXPERIMENT/RUN")],
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Folder for front.csv, front.md and front.png.")] = None,
) -> None:
    """The Pareto front of a study, with its hypervolume."""
    from search.commands.front import front as read_front
    from search.commands.front import write

    result = read_front(study)
    print_result(result, as_json, lambda: front_view(result))
    if out is not None:
        for file in write(study, out):
            errors.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="Folder or mlflow:EXPERIMENT/RUN")],
    out: Annotated[Path, typer.Option(help="HTML file to write; it needs no network.")],
    images: Annotated[int, typer.Option(min=1, max=40, help="Rows of a contact sheet.")] = 12,
    select: Annotated[
        list[str] | None, typer.Option(help="Rule for a model to look at, the chosen one first; may be repeated.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Put it, with its images, on the study's run in MLflow.")] = False,
    sheets: Annotated[
        Path | None, typer.Option(help="Folder for a contact sheet of every front member, as PNG files.")
    ] = None,
) -> None:
    """Question, data, front, worst cases and what the chosen model gives up, in one HTML file."""
    from search.commands.report import report as write

    for note in write(study, out, images, select or (), log, say, sheets):
        errors.print(note, markup=False, highlight=False, soft_wrap=True)
    say(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def sync(
    study: Annotated[Path, typer.Argument(help="Folder of a study")],
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow server; default: the study's own.")] = None,
) -> None:
    """Send to MLflow what a search could not, because the server was away."""
    from search.commands.sync import sync_study

    say(f"{sync_study(study, tracking_uri)} trials are at the server")


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="Folder of a study")],
    out: Annotated[Path, typer.Option(help="File to write (.safetensors) or, for the other formats, folder.")],
    select: Annotated[str, typer.Option(help="knee | best:METRIC | METRIC<=X,… | trial:ID")] = "knee",
    kind: Annotated[str, typer.Option("--format", help="checkpoint | standalone | onnx | mlflow")] = "checkpoint",
    register: Annotated[
        str | None, typer.Option(help="With --format mlflow: register it under this name at the study's MLflow server.")
    ] = None,
    held_out: Annotated[bool, typer.Option(help="Measure it on data.report_split first, if that was not done.")] = True,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train it at full length first; resumes.")] = False,
    config: Annotated[Path | None, typer.Option(help="Take the `finetune` section from here, not the study.")] = None,
    time_it: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure time and memory, for the card.")
    ] = True,
    ray_address: WorkersAddress = None,
) -> None:
    """Write the model of the trial that a rule selects, with a model card, and check what was written."""
    from search.commands.export import export as write

    if config is not None and not finetune:
        raise MedcoreError("--config says how to fine-tune; give it with --finetune")
    if ray_address is not None and not finetune:
        raise MedcoreError("--ray-address says where to fine-tune; give it with --finetune")
    settings = None if config is None else load_config(config).finetune
    row = write(study, select, out, kind, say, register, held_out, finetune, settings, time_it, ray_address)
    say(f"trial {row['trial_id']} ({row['origin']}): {100 * row['flops_fraction']:.1f} % of the FLOPs")
    say(f"wrote {out}")


@app.command()
def evaluate(
    checkpoint: Path,
    data: Annotated[list[Path], typer.Option(help="Folder with images/ and masks/; may be repeated.")],
    split: Annotated[str, typer.Option(help="Part of the data, as in splits.json, or val/search, val/report, all.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result as JSON; - prints it.")] = None,
    arch: Arch = None,
    autocast: Annotated[bool, typer.Option("--autocast", help="Run the model in bfloat16.")] = False,
    splits: Annotated[Path | None, typer.Option(help="Saved splits of a study: its `output` folder's splits/.")] = None,
) -> None:
    """Dice, IoU, Boundary F1, HD95, NSD and ASSD of a checkpoint, with its cost."""
    from search.commands.evaluate import evaluate as run

    result = run(checkpoint, data, split, arch, autocast, splits)
    print_result(result, json_file == Path("-"), lambda: evaluation_table({checkpoint.name: result}))
    if json_file not in (None, Path("-")):
        write_text(json_file, json.dumps(result, indent=1))


@app.command()
def cost(
    model: Annotated[str, typer.Argument(help="vit_b, a JSON file or a checkpoint")], as_json: Json = False
) -> None:
    """Encoder parameters and both FLOPs figures."""
    from search.commands.cost import cost as run

    result = run(model)

    def lines() -> Text:
        return Text(
            f"{model}: {result['encoder_params'] / 1e6:.2f} M encoder parameters\n"
            f"flops        {result['flops'] / 1e9:.2f} G  (what runs: padded windows, relative positions, neck)\n"
            f"flops_paper  {result['flops_paper'] / 1e9:.2f} G  (the paper's count: unpadded windows, no neck)"
        )

    print_result(result, as_json, lines)


@app.command()
def latency(
    target: Annotated[Path, typer.Argument(metavar="STUDY_OR_CHECKPOINT", help="Folder of a study, or a checkpoint.")],
    batch: Annotated[str, typer.Option(help="Images a call, e.g. 1,8")] = "1,8",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: as many as torch takes.")] = None,
    select: Annotated[str, typer.Option(help="Of a study: front | all")] = "front",
    autocast: Annotated[bool, typer.Option("--autocast", help="Run the models in bfloat16.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Of a study: measure also what was measured before.")] = False,
    arch: Arch = None,
    as_json: Json = False,
) -> None:
    """Measured time and memory beside the dense model's; of a study, for its front, its report and rules."""
    from results.store.latency import FILE
    from search.commands.latency import latency as time_checkpoint
    from search.commands.latency import study_latency

    def warn(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    try:
        batches = sorted({int(part) for part in batch.split(",")})
    except ValueError:
        batches = []
    if not batches or batches[0] < 1:
        raise MedcoreError(f"--batch '{batch}': give whole numbers of images from 1 on, such as 1,8")
    if not target.exists():
        raise MedcoreError(f"{target}: neither a study nor a checkpoint; give a search's folder or a .safetensors file")
    with scoring_bar("measuring") as progress:
        try:
            if target.is_dir():
                records = study_latency(target, batches, threads, select, autocast, again, progress, warn)
            else:
                records = time_checkpoint(target, batches, threads, arch, autocast, progress)
        except KeyboardInterrupt:
            errors.print("stopped; of a study, what is measured is kept, and the same command goes on")
            raise typer.Exit(130) from None
    result = {"target": str(target), "records": [record.to_dict() for record in records]}
    print_result(result, as_json, lambda: latency_table(records))
    if target.is_dir() and not as_json:
        say(f"wrote {target / FILE}")


@app.command()
def leverage(
    config: ConfigPath,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: leverage/ in the study's folder.")] = None,
    images: Annotated[int, typer.Option(min=1, help="How many of the search images are used.")] = 32,
    as_json: Json = False,
) -> None:
    """Boundary leverage over a grid of sparsities, head steps against MLP steps."""
    from search.commands.analyse.leverage import leverage as run

    settings = load_config(config)
    folder = out or settings.folder / "leverage"
    with scoring_bar() as progress:
        result = run(settings, folder, progress, images)
    print_result(result, as_json, lambda: leverage_table(result))
    if not as_json:
        say(f"wrote {folder}/leverage.parquet, leverage.json and leverage.png")


@app.command()
def analyse(
    kind: Annotated[str, typer.Argument(help="criteria | ablation | displacement | leverage")],
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and notes.")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    fractions: Annotated[str | None, typer.Option(help="FLOPs left, e.g. 0.3,0.15")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None,
) -> None:
    """Compare criteria, their parts, predicted displacements or leverage on your checkpoints; resumes by itself."""
    from search.commands.analyse.analyse import KINDS
    from search.commands.analyse.analyse import analyse as run

    if kind not in KINDS:
        raise MedcoreError(f"unknown analysis '{kind}'; known are {', '.join(KINDS)}")
    try:
        shares = [float(part) for part in fractions.split(",")] if fractions else []
    except ValueError:
        raise MedcoreError(f"--fractions '{fractions}': give numbers such as 0.3,0.15") from None
    words = ["medcore", "analyse", kind, str(config), "--out", str(out), "--seeds", str(seeds)]
    words += ["--fractions", fractions] if fractions else []
    with scoring_bar() as progress:
        files = run(
            kind,
            load_config(config),
            out,
            range(seeds),
            shares,
            ray_address=ray_address,
            command=shlex.join(words),
            progress=progress,
            say=say,
        )
    for file in files:
        say(f"wrote {file}")


@app.command()
def predict(
    checkpoint: Path,
    image: Path,
    box: Annotated[str, typer.Option(help="X0,Y0,X1,Y1 in pixels of the image")],
    out: Annotated[Path, typer.Option(help="Mask to write (PNG, 0 or 255)")],
    arch: Arch = None,
) -> None:
    """Segment the object in a box, through segment-anything's own predictor."""
    from search.commands.predict import predict as run

    try:
        x0, y0, x1, y1 = (float(part) for part in box.split(","))
    except ValueError:
        raise MedcoreError(f"--box '{box}': give four numbers X0,Y0,X1,Y1") from None
    share = run(checkpoint, image, (x0, y0, x1, y1), out, arch)
    say(f"wrote {out}: {100 * share:.1f} % of the image")


def resume_command(config: Path, **options: object) -> str:
    """The call that goes on with a search: the same options, quoted for a shell.

    An address with a login in it is left out, as it would be read in logs; the study says then how to give it. A job
    of a cluster is told what was typed where it was submitted.
    """
    if submitted := os.environ.get(RESUME_COMMAND):
        return submitted
    words = [program("medcore"), "search", str(config)]
    for name, value in options.items():
        if value is not None and hide_login(str(value)) == str(value):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--resume"])


def override(config: Config, trials: int | None, name: str | None, tracking_uri: str | None) -> Config:
    """The configuration with the command line's values in it, validated again."""
    values = config.model_dump()
    if trials is not None:
        values["search"]["trials"] = trials
    if name is not None:
        values["study"] = name
    if tracking_uri is not None:
        values["tracking"]["uri"] = tracking_uri
    return validate(values, "command line")


@contextmanager
def scoring_bar(title: str = "scoring") -> Iterator[Callable[[int, int], None]]:
    """A progress bar that appears with the first scored image (or other piece of work) and goes with the last."""
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


def print_result(result: dict[str, Any], as_json: bool, table: Callable[[], Any]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        console.print(table())


def write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot be written ({error.strerror})") from None


def main() -> None:
    """Entry point: a `MedcoreError`, or a GPU out of memory, becomes one line on standard error and exit code 2."""
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
            f"medcore: out of GPU memory ({first_line(error)}); lower recovery.batch_size (adapt.batch_size, "
            "finetune.batch_size) or set recovery.autocast (adapt.autocast, finetune.autocast) to true\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _out_of_memory(error: RuntimeError) -> bool:
    # imported here: `medcore --help` need not wait for torch
    import torch

    return isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    main()
