"""The campaign in a table: what each kind of fault has cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.campaign.faults import KINDS
from benchmarks.campaign.record import Record

Entry = dict[str, Any]

#: Findings as columns of the table. A row that says `failed` is no lost trial, but undisturbed there is none.
_COLUMNS = {
    "lost": "lost",
    "duplicated": "doubled",
    "rerun": "run again after their end",
    "half_written": "half-written rows",
    "failed": "failed",
    "broken_models": "broken models",
    "mlflow_missing": "MLflow missing",
    "mlflow_doubled": "MLflow doubled",
    "mlflow_wrong": "MLflow wrong",
    "leftover_processes": "processes left",
    "hung": "hung",
    "differences": "values that differ",
}


def write_report(folder: Path, record: Record) -> None:
    """`report.json` and `README.md`."""
    undisturbed = record.rounds.get(0, {}).get("seconds")
    played = [entry for number, entry in sorted(record.rounds.items()) if number]
    kinds = {
        kind: summary([entry for entry in played if kind in _kinds(entry)], undisturbed, kind)
        for kind in KINDS
        if any(kind in _kinds(entry) for entry in played)
    }
    whole = {"settings": record.settings, "undisturbed_seconds": undisturbed, "kinds": kinds}
    whole["all"] = summary(played, undisturbed)
    (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / "README.md").write_text(page(whole))


def summary(entries: Sequence[Entry], undisturbed: float | None, kind: str | None = None) -> Entry:
    """Sums over rounds. With several faults in a round, each kind's line counts all that was found in it."""
    lost = [entry["seconds"] - undisturbed for entry in entries] if undisturbed is not None else []
    return {
        "rounds": len(entries),
        "faults": sum(kind is None or fault["kind"] == kind for entry in entries for fault in entry["struck"]),
        "resumes": sum(entry["resumes"] for entry in entries),
        "syncs": sum(entry["syncs"] for entry in entries),
        "median_seconds_lost": round(statistics.median(lost), 1) if lost else None,
        **{name: sum(len(entry["findings"].get(name, ())) for entry in entries) for name in _COLUMNS},
    }


def page(whole: Entry) -> str:
    settings = whole["settings"]
    columns = {name: title for name, title in _COLUMNS.items() if name != "differences" or settings["exact"]}
    head = ["", "rounds", "faults", *columns.values(), "resumed", "synced", "median time lost (s)"]
    lines = [*((f"{KINDS[kind]} (`{kind}`)", row) for kind, row in whole["kinds"].items()), ("all", whole["all"])]
    table = [
        [title, *(row[name] for name in ("rounds", "faults", *columns, "resumes", "syncs")), _time(row)]
        for title, row in lines
    ]
    first = (
        f"{whole['all']['rounds']} searches of {settings['trials']} trials on {settings['workers']} worker nodes, seed "
        f"{settings['seed']}. The undisturbed search takes {_number(whole['undisturbed_seconds'])} s."
    )
    return "\n".join(
        [
            "# Searches under faults",
            "",
            first,
            "A round with several faults counts in the line of each. *Resumed*: how often `medcore search --resume` "
            "was typed, *synced*: how often `medcore sync` was, both because the search had said so or was killed. "
            "*Failed* trials have a row that says why. Machines are Linux namespaces on one computer.",
            "",
            f"    {_command(whole)}",
            "",
            _row(head),
            _row(["---", *["--:"] * (len(head) - 1)]),
            *map(_row, table),
            "",
        ]
    )


def summary_line(entry: Entry) -> str:
    """`round 3: driver at 12 rows, node at 20; 41 s, 1 resume; clean`."""
    faults = ", ".join(f"{fault['kind']} at {fault['at_rows']} rows" for fault in entry["struck"]) or "undisturbed"
    found = "; ".join(f"{name}: {items}" for name, items in entry["findings"].items() if items) or "clean"
    return f"round {entry['round']}: {faults}; {entry['seconds']:.0f} s, {entry['resumes']} resumes; {found}"


def _command(whole: Entry) -> str:
    settings = whole["settings"]
    numbers = [f"--{name} {settings[name]}" for name in ("trials", "workers", "seed")]
    only = ["--only", *settings["only"]] if settings["only"] else []
    exact = ["--exact"] if settings["exact"] else []
    rounds = f"--rounds {whole['all']['rounds']}"
    return " ".join(["python -m benchmarks.failure_campaign", *exact, rounds, *numbers, *only, "--out FOLDER"])


def _kinds(entry: Entry) -> set[str]:
    return {fault["kind"] for fault in entry["struck"]}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _time(row: Entry) -> str:
    return _number(row["median_seconds_lost"])


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
