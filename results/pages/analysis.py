"""Tables and pictures of analyses: CSV for programs, Markdown and PNG for people.

A figure is the macro mean over data sets of values of images, which are first averaged over seeds. Its interval is a
bootstrap over images (95 %). `seeds` is the standard deviation of the figure over seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from medcore.quality.catalogue import headlines
from medcore.quality.figures import TERMS
from results.plots.pictures import BLUE, STYLE, VERMILION, save
from results.stats.intervals import macro_interval
from results.stats.labels import NOT_RECOVERED, title
from results.store.files import write_by_rename

_PHASES = ("pruned", "recovered")
_PER_IMAGE = ["dataset", "name"]
_PREDICTED, _MEASURED = "predicted_px", "measured_px"
_OUTCOMES = (_MEASURED, "lost_boundary_f1", "lost_hd95")


def write_criteria(trials: pd.DataFrame, images: pd.DataFrame, out: Path, notes: Mapping[str, Any]) -> list[Path]:
    """Compare variants before and after recovery.

    Differences are to the first variant, paired by image.

    Args:
        trials: One row a case.
        images: Metrics of every image of every case, with a column `phase`.
        out: Folder.
        notes: Go to a file of their own; `dense` holds the unpruned model's metrics, `cost` the figure of whose dense
            value `fraction` is a share.

    Returns:
        The files.
    """
    merged = images.merge(trials[["trial_id", "variant", "fraction", "case_seed"]], on="trial_id")
    first = str(trials.sort_values("number")["variant"].iloc[0])
    rows = [
        _row(merged, phase, fraction, variant, first)
        for fraction in sorted(trials["fraction"].unique(), reverse=True)
        for phase in _PHASES
        for variant in trials.sort_values("number")["variant"].unique()
    ]
    table = pd.DataFrame(rows)
    lines = [
        f"| {_left(notes)} | phase | variant | Boundary F1 (95 %) | less {first} (95 %) | HD95 px (95 %) | Dice "
        "| seeds (sd of BF1) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['fraction']:.0%} | {row['phase']} | {row['variant']} | {_value(row, 'boundary_f1', 4)} "
        f"| {_value(row, 'gain_boundary_f1', 4, '+')} | {_value(row, 'hd95', 2)} | {row['dice']:.4f} "
        f"| {'–' if np.isnan(row['boundary_f1_seeds']) else format(row['boundary_f1_seeds'], '.4f')} |"
        for row in rows
    ]
    dense = notes["dense"]
    lines += [
        "",
        f"The {NOT_RECOVERED}: Boundary F1 {dense['boundary_f1']:.4f}, HD95 {dense['hd95']:.2f} px, "
        f"Dice {dense['dice']:.4f}.",
    ]
    return [*_write(table, lines, out, notes), _criteria_picture(table, out / "picture.png", _left(notes))]


def _left(notes: Mapping[str, Any]) -> str:
    """Return the title of the share of the cost that cases keep."""
    return title(f"{notes['cost']}_fraction")


def _row(merged: pd.DataFrame, phase: str, fraction: float, variant: str, first: str) -> dict[str, Any]:
    chosen = merged[(merged["phase"] == phase) & (merged["fraction"] == fraction)]
    mine, base = (_image_means(chosen[chosen["variant"] == name]) for name in (variant, first))
    row: dict[str, Any] = {"fraction": fraction, "phase": phase, "variant": variant}
    for metric in headlines():
        row |= _figure(metric, mine[metric], mine["dataset"])
        by_seed = chosen[chosen["variant"] == variant].groupby(["case_seed", "dataset"])[metric].mean()
        row[f"{metric}_seeds"] = float(by_seed.groupby("case_seed").mean().std(ddof=1))
        row |= _figure(f"gain_{metric}", mine[metric] - base[metric], mine["dataset"])
    return row


def _image_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each image's metrics, mean over seeds."""
    means: pd.DataFrame = frame.groupby(_PER_IMAGE)[headlines()].mean().reset_index()
    return means


def _figure(name: str, values: pd.Series, datasets: pd.Series) -> dict[str, float]:
    low, high = macro_interval(values, datasets)
    return {name: float(values.groupby(datasets.to_numpy()).mean().mean()), f"{name}_lo": low, f"{name}_hi": high}


def write_displacement(trials: pd.DataFrame, images: pd.DataFrame, out: Path, notes: Mapping[str, Any]) -> list[Path]:
    """Show how well the predicted displacement ranks images and models.

    All correlations are Spearman's. `images` is the correlation over the images of one model, mean over models.
    `models` is that over the medians of models, so that a missed object's distance weighs no more than any other
    image. Over all shares of FLOPs it mostly says that harder pruning moves everything; within one share it compares
    criteria and seeds.

    Args:
        trials: One row a case.
        images: Predicted and measured displacement of every image of every case, and what metrics lose.
        out: Folder.
        notes: Go to a file of their own; `cost` is the figure of whose dense value `fraction` is a share.

    Returns:
        The files.
    """
    merged = images.merge(trials[["trial_id", "variant", "fraction", "case_seed"]], on="trial_id")
    merged = merged[np.isfinite(merged[_PREDICTED])]
    rows = []
    for fraction, part in [("all", merged), *merged.groupby("fraction")]:
        row: dict[str, Any] = {"fraction": fraction, "predicted_px": part[_PREDICTED].median()}
        row["measured_px"] = part[_MEASURED].median()
        for outcome in _OUTCOMES:
            # a model whose boundary moves nowhere has no correlation
            row[f"images_{outcome}"] = np.nanmean([_rank(model, outcome) for _, model in part.groupby("trial_id")])
            middles = part.groupby("trial_id")[[_PREDICTED, outcome]].median()
            row[f"models_{outcome}"] = _rank(middles, outcome)
            if fraction == "all":
                row[f"models_{outcome}_lo"], row[f"models_{outcome}_hi"] = _rank_interval(part, outcome)
        rows.append(row)
    table = pd.DataFrame(rows)
    names = "measured displacement | loss of Boundary F1 | growth of HD95"
    lines = [
        f"| {_left(notes)} | predicted px (median) | measured px (median) | images: {names} | models: {names} |",
        "|---|---|---|" + "---|" * 6,
    ]
    lines += [
        f"| {row['fraction'] if row['fraction'] == 'all' else format(row['fraction'], '.0%')} "
        f"| {row['predicted_px']:.2f} | {row['measured_px']:.2f} | "
        + " | ".join(f"{row[f'{over}_{outcome}']:.2f}" for over in ("images", "models") for outcome in _OUTCOMES)
        + " |"
        for row in rows
    ]
    whole = rows[0]
    intervals = ", ".join(
        f"{outcome} {whole[f'models_{outcome}']:.2f} ({whole[f'models_{outcome}_lo']:.2f} to "
        f"{whole[f'models_{outcome}_hi']:.2f})"
        for outcome in _OUTCOMES
    )
    lines += ["", f"Over all models, 95 % by a bootstrap over images: {intervals}."]
    return [*_write(table, lines, out, notes), _displacement_picture(merged, out / "picture.png", _left(notes))]


def _rank(frame: pd.DataFrame, outcome: str) -> float:
    """Return Spearman's correlation.

    The correlation is NaN if one side is constant or there are fewer than three rows.
    """
    if len(frame) < 3 or frame[outcome].nunique() < 2 or frame[_PREDICTED].nunique() < 2:
        return float("nan")
    return float(spearmanr(frame[_PREDICTED], frame[outcome]).statistic)


def _rank_interval(frame: pd.DataFrame, outcome: str, resamples: int = 300) -> tuple[float, float]:
    """Return the interval of the correlation over models by a bootstrap over images."""
    wide = {
        name: frame.pivot_table(index=_PER_IMAGE, columns="trial_id", values=name) for name in (_PREDICTED, outcome)
    }
    predicted, happened = (wide[name].to_numpy() for name in (_PREDICTED, outcome))
    generator = np.random.default_rng(0)
    correlations = []
    for _ in range(resamples):
        drawn = generator.integers(0, len(predicted), len(predicted))
        pair = np.nanmedian(predicted[drawn], axis=0), np.nanmedian(happened[drawn], axis=0)
        correlations.append(float(spearmanr(*pair).statistic))
    low, high = np.nanpercentile(correlations, [2.5, 97.5])
    return float(low), float(high)


def write_leverage(
    summaries: Mapping[str, Sequence[Mapping[str, Any]]], out: Path, notes: Mapping[str, Any]
) -> list[Path]:
    """Compare head with MLP steps, one row a model, seed and τ.

    Args:
        summaries: What `medcore leverage` wrote, a run for each seed, by model.
        out: Folder.
        notes: Go to a file of their own.

    Returns:
        The files.
    """
    rows = [
        {
            "model": model,
            "seed": run["seed"],
            "allocator": run["allocator"],
            "images": run["images"],
            "tau": float(tau),
        }
        | dict(values)
        for model, runs in summaries.items()
        for run in runs
        for tau, values in run["tau"].items()
    ]
    table = pd.DataFrame(rows)
    lines = [
        "| model | seed | τ (px) | BLR95 (95 %) | RLR (95 %) | BSR (95 %) | win rate |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['seed']} | {row['tau']:g} | {_ratio(row, 'blr95')} | {_ratio(row, 'rlr')} "
        f"| {_ratio(row, 'bsr')} | {'–' if row['win_rate'] is None else format(row['win_rate'], '.0%')} "
        f"of {row['grid_points']} |"
        for row in rows
    ]
    lines += ["", *(f"- {term}: {TERMS[term]}" for term in ("BLR95", "RLR", "BSR", "Win rate"))]
    return _write(table, lines, out, notes)


def _ratio(row: Mapping[str, Any], name: str) -> str:
    """Write a ratio with its interval.

    A ratio without a denominator (all steps of a family skipped) is a dash.
    """
    if row[name] is None:
        return "–"
    low, high = row.get(f"{name}_lo"), row.get(f"{name}_hi")
    return f"{row[name]:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def _value(row: Mapping[str, Any], name: str, digits: int, sign: str = "") -> str:
    value, low, high = (format(row[key], f"{sign}.{digits}f") for key in (name, f"{name}_lo", f"{name}_hi"))
    return f"{value} ({low} to {high})"


def _write(table: pd.DataFrame, lines: Sequence[str], out: Path, notes: Mapping[str, Any]) -> list[Path]:
    files = {
        out / "table.csv": table.to_csv(index=False, float_format="%.5g"),
        out / "table.md": "\n".join(lines) + "\n",
        out / "notes.json": json.dumps(dict(notes), indent=1) + "\n",
    }
    for path, text in files.items():
        write_by_rename(path, text.encode())
    return list(files)


def _criteria_picture(table: pd.DataFrame, path: Path, left: str) -> Path:
    """Draw Boundary F1 with intervals.

    There is a panel for each share of FLOPs and a pair of marks for each variant.
    """
    fractions, names = list(table["fraction"].unique()), list(table["variant"].unique())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 3.6 * len(fractions), 1.6 + 0.34 * len(names)), layout="constrained")
        axes = figure.subplots(1, len(fractions), squeeze=False, sharey=True)[0]
        for ax, fraction in zip(axes, fractions, strict=True):
            for phase, colour, shift in (("pruned", VERMILION, -0.12), ("recovered", BLUE, 0.12)):
                part = (
                    table[(table["fraction"] == fraction) & (table["phase"] == phase)].set_index("variant").loc[names]
                )
                value = part["boundary_f1"].to_numpy()
                errors = [value - part["boundary_f1_lo"], part["boundary_f1_hi"] - value]
                where = np.arange(len(names)) + shift
                ax.errorbar(value, where, xerr=errors, fmt="o", ms=5, color=colour, lw=1.3, label=phase)
            ax.set(title=f"{left}: {fraction:.0%}", xlabel="Boundary F1 — higher is better")
            ax.set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()  # all panels share it
        axes[0].legend(loc="best")
        save(figure, path)
    return path


def _displacement_picture(merged: pd.DataFrame, path: Path, left: str) -> Path:
    """Draw predicted against measured displacement.

    Each image of each model is a point, coloured by the share of the cost that is left.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        ax = figure.subplots()
        predicted, measured = (merged[name].clip(lower=0.05) for name in (_PREDICTED, _MEASURED))
        colours = 100 * merged["fraction"]
        points = ax.scatter(predicted, measured, c=colours, s=5, alpha=0.5, cmap="cividis", lw=0)
        ends = [0.05, float(max(merged[_PREDICTED].max(), merged[_MEASURED].max()))]
        ax.plot(ends, ends, color="black", lw=1, ls=(0, (4, 3)))
        ax.set(xscale="log", yscale="log", xlabel="Predicted displacement (px)", ylabel="Measured displacement (px)")
        figure.colorbar(points, ax=ax, label=f"{left} (%)")
        save(figure, path)
    return path
