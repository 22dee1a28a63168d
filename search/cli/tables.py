"""Results as rich tables, for people at a terminal of 80 columns and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from medcore.errors import printable
from medcore.quality.catalogue import latency_names, metrics
from medcore.quality.figures import FIGURES, TERMS
from medcore.quality.time_table import SiteTimes, TimeTable
from results.pages.file_size import bytes_text
from results.pages.noise import noise_sentences
from results.stats.choices import schedule_summary, schedules_differ
from results.stats.columns import DOUBT
from results.stats.compare import Candidates, comparison_cells, comparison_note
from results.stats.labels import column_title, text, title
from results.stats.objectives import Objective
from results.store.front import Front
from results.store.latency import Record, dense_columns, figures, suffix, timed_on

if TYPE_CHECKING:
    from search.commands.export import Exported

_ABSENT = "–"
#: What follows a time that is no fact.
_DOUBTED = " ?"
#: What is left of the FLOPs as they run comes first, the paper's count second.
_COSTS = ("flops_fraction", "flops_paper_fraction", "flops", "flops_paper", "encoder_params")
#: The share that counts where the decoder is pruned as well.
_CALL = "call_flops_fraction"


def exported_table(members: Sequence[Exported]) -> Table:
    """Show what an export of the front wrote, or why it did not."""
    table = Table(box=SIMPLE_HEAD)
    for name, justify in (("trial", "left"), (title("flops_fraction"), "right"), ("written", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("size", justify="right")
    table.add_column("dtype")
    table.add_column("of the dense model's size", justify="right")
    for member in members:
        left = text("flops_fraction", member.row.metrics.get("flops_fraction"))
        if member.written is None:
            table.add_row(member.row.trial_id, left, Text(printable(f"failed: {member.problem}"), "red"), "", "", "")
        else:
            size = member.written.size
            cells = (printable(member.place.name), bytes_text(size.written), size.precision, f"{size.left:.1%}")
            table.add_row(member.row.trial_id, left, *cells)
    return table


def evaluation_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Show models next to each other: cost first, then quality."""
    table = Table(title="macro mean over data sets")
    table.add_column("")
    for name in models:
        table.add_column(printable(name), justify="right")
    for metric in (*_COSTS, *(entry.name for entry in metrics())):
        values = [model.get(metric) for model in models.values()]
        if any(value is not None for value in values):
            cells = ["" if value is None else text(metric, value) for value in values]
            table.add_row(title(metric), *cells)
    return table


def frames_table(name: str, result: Mapping[str, Any]) -> Group:
    """Show the cost of a checkpoint, and below it its metrics with intervals, one column a frame."""
    inside = result.get("model_frame")
    frames = {"original size": result} if "images" in result else {}
    if inside is not None:
        frames[f"{inside['side']} px frame"] = inside
    table = Table(
        title="macro mean over data sets (95 % interval over images)",
        caption=None
        if inside is None
        else f"{inside['side']} px frame: boxes 0 to {inside['widen_px']} px outward (seed {inside['box_seed']}), "
        f"{inside['empty_masks']} empty masks counted",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for head in frames:
        table.add_column(head, justify="right")
    for count in ("images", "objects"):
        table.add_row(count, *(str(frame[count]) for frame in frames.values()))
    for metric in metrics():
        cells = [_with_interval(metric.name, frame) for frame in frames.values()]
        table.add_row(title(metric.name), *cells)
    return Group(cost_table(name, result), table)


def cost_table(name: str, result: Mapping[str, Any]) -> Table:
    """Show the cost of a checkpoint."""
    costs = Table(title=printable(name), show_header=False, box=None)
    for cost in _COSTS:
        costs.add_row(title(cost), text(cost, result[cost]))
    return costs


def _with_interval(metric: str, frame: Mapping[str, Any]) -> str:
    if metric not in frame:
        return _ABSENT
    ends = frame["intervals"].get(metric)
    between = "" if ends is None else f" ({_range((ends[0], ends[1]))})"
    return f"{text(metric, frame[metric])}{between}"


def front_view(front: Front) -> Group:
    """Show the front, and below it its members' intervals, what they chose and how long they take."""
    tables = (front_table(front), intervals_table(front), choices_table(front), times_table(front))
    return Group(*filter(None, tables), *map(Text, noise_sentences(front)))


def front_table(front: Front) -> Table:
    """Show the Pareto front, cheapest first, closed by the dense model.

    Shares are of the dense encoder.
    """
    families = front.shown_families()
    kept = f"{', '.join(families)}: kept" if families else "what each member keeps of its families is in the report"
    table = Table(
        title=f"{printable(front.info.name)}: {len(front.members)} of {front.done} trials on the front "
        f"({front.not_done}), hypervolume {front.hypervolume:.4g}",
        caption=f"{title('flops_fraction')}: of the dense encoder's, as they run and by the paper's count; {kept}",
        box=SIMPLE_HEAD,
        padding=0,  # all columns together just fit a terminal of 80
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    table.add_column("origin", no_wrap=True)
    # the two FLOPs shares stand for every cost figure, which would be too wide here
    costs = (title("flops_fraction"), "paper's count", *([title(_CALL)] if _CALL in front.info.dense else []))
    for name in (*costs, *families, *(printable(column_title(metric)) for metric in front.quality)):
        # a head may break between words, but not within one
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    for member in front.members:
        shares = [f"{front.info.share(family, member.budget[family]):.0%}" for family in families]
        cells = _cells(member.metrics, front.quality)
        table.add_row(
            printable(member.trial_id), printable(str(member.origin)), *_costs(member.metrics), *shares, *cells
        )
    table.add_section()
    dense = front.info.dense
    shares = [f"{front.info.start_share(family):.0%}" for family in families]
    name = "dense" if front.info.start is None else "start"
    table.add_row(name, "not recovered", *_costs(dense), *shares, *_cells(dense, front.quality))
    return table


def intervals_table(front: Front) -> Table | None:
    """Show the objectives that are no costs with both intervals.

    The result is None if neither is known for any member.
    """
    shown = front.uncertainties()
    if not any(each.seeds or each.images for each in shown):
        return None
    table = Table(
        title="95 % intervals of means over runs",
        caption="seeds: over the runs of a trial (Student's t); images: bootstrap over images",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    for name in ("figure", "runs", "mean", "seeds", "images"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for each in shown:
        cells = (_number(each.mean), _range(each.seeds), _range(each.images))
        table.add_row(printable(each.trial_id), printable(title(each.metric)), str(each.runs), *cells)
    return table


def choices_table(front: Front) -> Table | None:
    """Show what each member of the front chose apart from its budget.

    The result is None if all chose the same.
    """
    if not schedules_differ(front.members):
        return None
    table = Table(title="what the members chose", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "chose"):
        table.add_column(name)
    for member in front.members:
        table.add_row(printable(member.trial_id), printable(schedule_summary(member)))
    return table


def times_table(front: Front) -> Table | None:
    """Show measured time and memory next to the FLOPs, one image a call.

    The result is None if no member was measured.
    """
    names = ("flops_fraction", *latency_names())
    device = timed_on(front.members)
    if device is None:
        return None
    doubts = [doubt if isinstance(doubt := record.get(DOUBT), str) else "" for record in front.records]
    caption = _caption(device, doubts)
    table = Table(title="time and memory, one image and box a call", caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", title("flops_fraction"), "call (ms)", "left", "encoder (ms)", "left", "peak (MB)"):
        table.add_column(name, justify="left" if name == "trial" else "right")
    dense = {**front.info.dense, "flops_fraction": 1.0}
    rows = [(printable(member.trial_id), member.metrics) for member in front.members]
    for (name, row), doubt in zip([*rows, ("dense model", dense)], [*doubts, "".join(doubts)], strict=True):
        if row is dense:
            table.add_section()
        share, *times, peak = _figures(row, names)
        table.add_row(name, share, *_marked(times, doubt), peak)
    return table


def latency_table(records: Sequence[Record]) -> Table:
    """Show records of one set-up, then the dense model.

    The dense model has the median over its turns with the others.
    """
    table = Table(
        title="time and memory: median (interquartile range), processor time, what is left of the dense model's",
        caption=_caption(str(records[0].setup), [record.doubt for record in records]),
        box=SIMPLE_HEAD,
        padding=0,  # all columns together just fit a terminal of 80
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    left = title("flops_fraction").replace(" ", "\n")
    for head in ("batch", left, "call (ms)", "cpu", "left", "encoder (ms)", "left", "MB"):
        table.add_column(head, justify="right", no_wrap=True)
    for record in records:
        row = figures(record.batch, record.model, record.dense)
        cells = _times(record.batch, record.flops_fraction, row, record.doubt)
        table.add_row(printable(record.trial_id), *cells)
    table.add_section()
    dense = dense_columns(records)
    for batch in sorted({record.batch for record in records}):
        doubt = "".join(record.doubt for record in records if record.batch == batch)
        table.add_row("dense", *_times(batch, 1.0, dense, doubt))
    return table


def comparison_table(studies: Sequence[Candidates], quality: Objective, table: pd.DataFrame) -> Table:
    """Show the best member of each study within shares of the FLOPs, and differences to the first study."""
    head, *rows = comparison_cells(studies, quality, table)
    view = Table(
        title=f"{title(quality.name)} of the best model within a share of the FLOPs left",
        caption=printable(comparison_note(quality, table)),
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for word in head:
        view.add_column(printable(word), justify="right", overflow="fold")
    for cells in rows:
        view.add_row(*map(printable, cells))
    return view


def time_table_view(times: TimeTable) -> Table:
    """Show the milliseconds that one site adds at each measured width, equal sites in one row."""
    table = Table(
        title=f"{printable(times.arch.name)}: {times.dense_ms:.4g} ms, "
        f"of which {times.fixed_ms:.4g} stay without groups",
        caption=printable(str(times.conditions)),
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for head in ("sites", "groups: ms that one site adds"):
        table.add_column(head)
    rows: dict[tuple[str, SiteTimes], list[str]] = {}
    for site, measured in zip(times.arch.sites, times.sites, strict=True):
        rows.setdefault((site.family.title, measured), []).append(str(site.block))
    for (family, measured), blocks in rows.items():
        cells = (f"{width}: {ms:.3g}" for width, ms in zip(measured.widths, measured.ms, strict=True))
        table.add_row(f"{family} of blocks {', '.join(blocks)}", ", ".join(cells))
    return table


def leverage_table(result: Mapping[str, Any]) -> Table:
    """Show head steps against MLP steps at each τ (method §8)."""
    table = Table(
        title=f"{result['architecture']}, {result['allocator']} budgets, {result['images']} images: "
        f"{result['steps']} steps, {result['skipped_steps']} skipped",
        caption="\n".join(f"{term}: {TERMS[term]}" for term in ("BLR95", "RLR", "BSR", "Win rate")),
    )
    for head in ("τ (px)", "BLR95", "RLR", "BSR", "win rate"):
        table.add_column(head, justify="right")
    for tau, found in result["tau"].items():
        ratios = ["–" if found[key] is None else f"{found[key]:.3f}" for key in ("blr95", "rlr", "bsr")]
        wins = "–" if found["win_rate"] is None else f"{found['win_rate']:.0%} of {found['grid_points']}"
        table.add_row(tau, *ratios, wins)
    return table


def _caption(setup: str, doubts: Sequence[str]) -> str:
    """Return the set-up, and why some times are no facts."""
    doubt = next(filter(None, doubts), "")
    return printable(setup) + (f"\n{_DOUBTED.strip()} do not trust: {printable(doubt)}" if doubt else "")


def _marked(times: Sequence[str], doubt: str) -> list[str]:
    return [f"{cell}{_DOUBTED}" for cell in times] if doubt else list(times)


def _times(batch: int, flops_fraction: float, row: Mapping[str, float], doubt: str) -> list[str]:
    end = suffix(batch)
    cells = [str(batch), f"{flops_fraction:.1%}"]
    for name in ("latency_ms", "encoder_ms"):
        spread, processor = row.get(f"{name}_iqr{end}"), row.get(f"{name}_cpu{end}")
        # a time in doubt has its mark in place of its spread, so that the table stays as narrow
        median = f"{row[name + end]:.4g}" + ("" if spread is None or doubt else f" ({spread:.3g})")
        call, left = _marked((median, f"{row[f'{name}_fraction{end}']:.1%}"), doubt)
        cells.append(call)
        if name == "latency_ms":
            cells.append(_ABSENT if processor is None else f"{processor:.4g}")
        cells.append(left)
    return [*cells, f"{row[f'peak_mb{end}']:.1f}"]


def _figures(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    values = [row.get(name) for name in names]
    shares = [FIGURES[name].kind == "share" for name in names]
    return [
        _ABSENT if value is None else f"{value:.1%}" if share else f"{value:.4g}"
        for value, share in zip(values, shares, strict=True)
    ]


def _costs(row: Mapping[str, Any]) -> list[str]:
    shares = (row.get(name) for name in ("flops_fraction", "flops_paper_fraction", *({_CALL} & row.keys())))
    return [_ABSENT if share is None else f"{share:.1%}" for share in shares]


def _cells(row: Mapping[str, Any], names: list[str]) -> list[str]:
    return [_number(row.get(name)) for name in names]


def _number(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def _range(ends: tuple[float, float] | None) -> str:
    return _ABSENT if ends is None else " to ".join(map(_number, ends))
