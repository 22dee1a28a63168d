"""Commands about one model: adapt, score, prune, evaluate, cost, latency, predict."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from medcore.data.formats.windows import ReadingRules
from medcore.errors import ConfigError
from search.base.config import load_config
from search.cli.options import (
    Arch,
    Batches,
    Box,
    By,
    ConfigPath,
    Frame,
    IgnoredNumbers,
    Json,
    LabelNumbers,
    ObjectKind,
    SmallestObject,
    WindowText,
    WorkersAddress,
    reading_rules,
)
from search.cli.terminal import LOADING, print_result, say, show, status, warn, write_text

if TYPE_CHECKING:
    from results.store.latency import Record

_Timed = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY_OR_CHECKPOINT",
        help="Folder of a study, or a checkpoint; with --table also a configuration or an architecture.",
    ),
]
_TableFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the time of every part of the encoder by width instead (1 thread, first size of --batch).",
    ),
]


def adapt(config: ConfigPath, ray_address: WorkersAddress = None) -> None:
    """General checkpoint + data -> medical checkpoint."""
    status.doing(LOADING, logged=False)
    from search.commands.adapt import adapt as run

    status.doing("training", logged=False)
    say(f"wrote {run(load_config(config), lambda row: say(f'epoch {row}'), ray_address)}")


def score(config: ConfigPath) -> None:
    """Score every head and MLP channel; writes the score table and a heat map."""
    status.doing(LOADING, logged=False)
    from search.commands.score import score as run

    status.doing("reading checkpoints and images")
    files = run(load_config(config), status.report)
    say("\n".join(f"wrote {file}" for file in files))


def prune(
    config: ConfigPath,
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write; default: in the study's folder.")] = None,
    side: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels along the model's square, for fewer tokens; replaces model.side. Budgets are shares of the "
            "unpruned model's cost at this side.",
        ),
    ] = None,
) -> None:
    """One schedule without a search -> checkpoint."""
    status.doing(LOADING, logged=False)
    from search.cli.tables import evaluation_table
    from search.commands.prune import prune as run

    settings = load_config(config)
    if side is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"side": side})})
    target = out or settings.folder / "pruned.safetensors"
    status.doing("reading checkpoints and images")
    metrics = run(settings, target, status.report)
    show(evaluation_table({"pruned": metrics}))
    gone = [f"{count} {key.removesuffix('_removed')}" for key, count in metrics.items() if key.endswith("_removed")]
    say(f"removed {' and '.join(gone)}, {1 - metrics['encoder_params_fraction']:.1%} of the encoder's parameters")
    say(f"wrote {target}")


def evaluate(
    checkpoint: Path,
    data: Annotated[list[Path], typer.Option(help="Folder of images and masks; may be repeated.")],
    split: Annotated[str, typer.Option(help="Part of the data, as in splits.json, or val/search, val/report, all.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result as JSON; - prints it.")] = None,
    arch: Arch = None,
    autocast: Annotated[bool, typer.Option("--autocast", help="Run the model in bfloat16.")] = False,
    splits: Annotated[Path | None, typer.Option(help="Saved splits of a study: its `output` folder's splits/.")] = None,
    frame: Annotated[
        Frame, typer.Option(help="Where masks are compared: at each image's size, in the model's square, or both.")
    ] = Frame.ORIGINAL,
    widen: Annotated[int, typer.Option(min=0, help="Model's square: box edges move outward by 0 to this, in px.")] = 5,
    box_seed: Annotated[int, typer.Option(min=0, help="Model's square: seed of these moves.")] = 42,
    labels: LabelNumbers = None,
    ignore: IgnoredNumbers = None,
    objects: ObjectKind = "whole",
    smallest_object: SmallestObject = 1,
    window: WindowText = None,
    by: Annotated[
        By | None, typer.Option(help="Whole cases of the MedSAM challenge, 2D and 3D, with means by modality.")
    ] = None,
) -> None:
    """Dice, IoU, Boundary F1, HD95, NSD and ASSD of a checkpoint, with intervals and its cost.

    With --by modality, DSC, NSD and seconds of the MedSAM challenge's cases.
    """
    status.doing(LOADING, logged=False)
    from medcore.quality.model_frame import WideBoxes
    from search.cli.tables import frames_table
    from search.cli.views.modality import doubtful_times, modality_tables
    from search.commands import evaluate as command

    rules = reading_rules(labels, ignore, objects, smallest_object, window)
    status.doing("evaluating", logged=False)
    if by is None:
        frames = command.Frames(frame.value, WideBoxes(widen, box_seed))
        result = command.evaluate(
            checkpoint, data, split, architecture=arch, autocast=autocast, splits=splits, frames=frames, rules=rules
        )
    else:
        if frame is not Frame.ORIGINAL or rules != ReadingRules(windows=rules.windows):
            raise ConfigError(
                "--by modality takes each label as an object and compares at the original size; leave out --frame, "
                "--labels, --ignore, --objects and --smallest-object"
            )
        progress = functools.partial(status.report, "cases")
        result = command.by_modality(checkpoint, data, split, arch, autocast, splits, rules, progress)
    view = frames_table if by is None else modality_tables
    print_result(result, json_file == Path("-"), lambda: view(checkpoint.name, result))
    if json_file is not None and json_file != Path("-"):
        write_text(json_file, json.dumps(result, indent=1))
    if by is not None and (doubt := doubtful_times(result)):
        warn(doubt)


def cost(
    model: Annotated[str, typer.Argument(help="vit_b, lite_medsam, a JSON file or a checkpoint")],
    boxes: Annotated[int, typer.Option(help="Boxes of a call: one image, and so many boxes.")] = 1,
    arch: Arch = None,
    as_json: Json = False,
) -> None:
    """Parameters and FLOPs of the encoder for an image, of the decoder for a box, and of a whole call."""
    status.doing("counting", logged=False)
    from search.commands.cost import cost as run

    result = run(model, boxes, arch)
    call = "one box" if boxes == 1 else f"{boxes} boxes"
    decoder = f"{result['decoder_params'] / 1e6:.2f} M parameters, {result['decoder_flops'] / 1e9:.2f} G a box"

    def lines() -> Text:
        return Text(
            f"{model}: {result['encoder_params'] / 1e6:.2f} M encoder parameters\n"
            f"flops        {result['flops'] / 1e9:.2f} G  (as they run: padded windows, relative positions, neck)\n"
            f"flops_paper  {result['flops_paper'] / 1e9:.2f} G  (by the paper's count: unpadded windows, no neck)\n"
            f"decoder      {decoder}\n"
            f"call         {result['call_flops'] / 1e9:.2f} G  (one image and {call})"
        )

    print_result(result, as_json, lines)


def latency(
    target: _Timed,
    batch: Annotated[
        Batches, typer.Option(parser=Batches.parse, metavar="<str>", help="Images a call, e.g. 1,8")
    ] = Batches((1, 8)),  # noqa: B008 - frozen
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: as many as torch takes.")] = None,
    select: Annotated[str, typer.Option(help="Of a study: front | all")] = "front",
    autocast: Annotated[bool, typer.Option("--autocast", help="Run the models in bfloat16.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Of a study: measure also what was measured before.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Of a study: let rules use the times in spite of a busy machine.")
    ] = False,
    table: _TableFile = None,
    arch: Arch = None,
    as_json: Json = False,
) -> None:
    """Measure time and memory against the dense model.

    Those of a study go to its front, report and rules.
    """
    status.doing(LOADING, logged=False)
    from medcore.models.formats.content import is_checkpoint
    from results.store.latency import FILE
    from search.cli.tables import latency_table, time_table_view
    from search.commands import latency as command

    status.doing("measuring", logged=False)
    if table is not None:
        times = command.time_table(
            target, table, batch=batch.sizes[0], threads=threads or 1, architecture=arch, autocast=autocast, say=warn
        )
        print_result({"file": str(table), **times.to_dict()}, as_json, lambda: time_table_view(times))
        if not as_json:
            say(f"wrote {table}")
        return
    if not target.exists():
        raise ConfigError(f"{target}: neither a study nor a checkpoint; give a search's folder or a .safetensors file")
    is_study = target.is_dir() and not is_checkpoint(target)
    options: dict[str, Any] = {"autocast": autocast, "progress": functools.partial(status.report, "measuring")}
    try:
        if is_study:
            options |= {"select": select, "again": again, "accept": accept, "say": warn}
            records = command.study_latency(target, batch.sizes, threads, **options)
        else:
            records = command.latency(target, batch.sizes, threads, architecture=arch, **options)
    except KeyboardInterrupt:
        warn("stopped; a study keeps what is measured, and the same command continues")
        raise typer.Exit(130) from None
    result = {"target": str(target), "records": [{**record.to_dict(), "doubt": record.doubt} for record in records]}
    print_result(result, as_json, lambda: latency_table(records))
    _warn_of_doubt(records)
    if is_study and not as_json:
        say(f"wrote {target / FILE}")


def _warn_of_doubt(records: Sequence[Record]) -> None:
    for record in records:
        if record.doubt:
            warn(f"{record.trial_id}, batch {record.batch}: do not trust these times: {record.doubt}")


def predict(
    checkpoint: Path,
    image: Path,
    box: Annotated[Box, typer.Option(parser=Box.parse, metavar="<str>", help="X0,Y0,X1,Y1 in pixels of the image")],
    out: Annotated[Path, typer.Option(help="Mask to write (PNG, 0 or 255)")],
    arch: Arch = None,
) -> None:
    """Segment the object in a box, through segment-anything's own predictor."""
    status.doing(LOADING, logged=False)
    from search.commands.predict import predict as run

    share = run(checkpoint, image, box.corners, out, arch)
    say(f"wrote {out}: {100 * share:.1f} % of the image")
