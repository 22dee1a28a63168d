"""Scores and running times of whole cases as rich tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from medcore.errors import printable
from search.cli.tables import cost_table

_SCORES = {"dsc": "DSC", "nsd": "NSD", "nsd_challenge": "script's NSD"}


def modality_tables(name: str, result: Mapping[str, Any]) -> Group:
    """Show the cost of a checkpoint, its scores and mean time by modality, and the slowest case of each modality."""
    return Group(cost_table(name, result), _scores(result), _slowest(result))


def doubtful_times(result: Mapping[str, Any]) -> str:
    """Return why times cannot be trusted; empty if nothing was in the way."""
    doubts = [row["doubt"] for row in result["cases"] if row["doubt"]]
    if not doubts:
        return ""
    return f"do not trust the times of {len(doubts)} of {len(result['cases'])} cases: {doubts[0]}"


def _scores(result: Mapping[str, Any]) -> Table:
    cases = len(result["cases"])
    exact = sum(row["exact_boxes"] for row in result["cases"])
    table = Table(
        title="means over cases in %, and their 95 % intervals over cases",
        caption=f"{exact} of {cases} cases have no boxes; the exact boxes of their labels are used" if exact else None,
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("modality", overflow="fold")
    for head in ("cases", "objects", *_SCORES.values(), "seconds"):
        table.add_column(head, justify="right")
    for modality, means in result["modalities"].items():
        table.add_row(printable(modality), *_cells(means))
    table.add_section()
    table.add_row("mean", *_cells(result["overall"]))
    return table


def _cells(means: Mapping[str, Any]) -> list[str]:
    shares = []
    for name in _SCORES:
        ends = means["intervals"][name]
        between = "" if ends is None else f"\n{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
        shares.append(f"{100 * means[name]:.2f}{between}")
    return [str(means["cases"]), str(means["objects"]), *shares, f"{means['seconds']:.3g}"]


def _slowest(result: Mapping[str, Any]) -> Table:
    table = Table(
        title="slowest case of each modality",
        caption=f"{printable(result['device'])}, {result['threads']} threads; "
        f"{result['load_seconds']:.2g} s of each case load the checkpoint",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("case", overflow="fold")
    for head in ("size", "objects", "seconds"):
        table.add_column(head, justify="right")
    for modality in result["modalities"]:
        slowest = max(
            (row for row in result["cases"] if row["modality"] == modality), key=lambda each: float(each["seconds"])
        )
        size = "×".join(map(str, slowest["size"]))
        table.add_row(printable(slowest["name"]), size, str(slowest["objects"]), f"{slowest['seconds']:.3g}")
    return table
