"""Files of a study and configurations with random mistakes: a right answer or one clear line, never a traceback.

Each example damages one file of a small study, or a configuration, and reads it as the commands do. What is shown holds
no character that a terminal obeys.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medcore.errors import MedcoreError, printable
from medcore.quality.timing import Latency, Timing
from results.pages.front_files import front_cells
from results.pages.markdown import plain, table
from results.store.front import Front
from results.store.held_out import Measurement, read_measurements, write_measurement
from results.store.latency import Record, Setup, add_latency
from results.store.study_info import read_study_info
from results.store.trials import all_rows, compact, read_images, read_phases, read_study, write_images
from search.base.config import load_config
from search.base.terminal.console import PlainConsole
from search.cli.tables import front_view
from search.commands.front import front
from search.commands.report.facts import data_sets, held_out_rows, models
from search.commands.report.report import _config, members_of
from search.commands.sync import _wanted_trials
from search.study.saved import saved_study, saved_values
from search.tracking import points
from search.tracking.note import read_whole_note
from search.tracking.pages.standing import Place, Standing
from search.tracking.pages.study import study_page
from search.tracking.pages.text import LONGEST
from search.tracking.trackers import saved_tracker
from search.trials.ledger import IssuedTrial, all_issued, write_issued
from tests.support.studies.tracked_study import make_study
from tests.support.studies.tracking import started

Draw = Callable[[st.SearchStrategy[Any]], Any]

#: Values that a file may hold instead of the right one.
ODD: list[Any] = [
    *(None, True, 0, -1, 3, 0.5, 1e308, float("inf"), float("nan"), 2**63, 10**400),
    *("", "x", "1e-4", "\x1b]0;owned\x07\x1b[2J", "[/b][link=x]", "<script>alert(1)</script>", "a|b`c\n# d"),
    *("$\\frac{$", "~nobody-here/x", "../../x", "\ud800", "\u202egpj", "a\0b", "9" * 5000, "v" * 30_000, "2024-13-45"),
    *([], [1], [["a"]], [None], {}, {"a": 1}, {"low": 1, "high": 0}, {"choices": []}, [[[[[[[[[[1]]]]]]]]]] * 4),
]
#: Keys that a file may hold besides the right ones.
KEYS = [
    "x",
    "[/b]",
    "\x1b[1m",
    "",
    "seeds",
    "seed_sd/dice",
    "report/dice",
    "heads",
    "latency_ms",
    "dice",
    "param/order",
]
CONFIG: dict[str, Any] = {
    "study": "s",
    "output": "runs",
    "seed": 1,
    "model": {"base": "a.safetensors", "adapted": "b.safetensors"},
    "data": {"folders": ["kv"], "calibration_per_dataset": 4},
    "scoring": {"nodes": [0.0, 3.0], "mixture": {"kv": 1.0}, "alpha_heads": 0.5},
    "recovery": {"steps": 4, "lr": 1e-4, "lambdas": [1, 0.5, 2, 0.5]},
    "budget": {"allocator": "knapsack", "fraction": 0.5, "protected": [0]},
    "schedule": {"order": "together", "stages": [{"fraction": 0.7}]},
    "search": {
        "trials": 4,
        "objectives": [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}],
        "space": {"lr": {"low": 1e-5, "high": 1e-3, "log": True}, "rounds": {"choices": [1, 2]}, "beta": 0.3},
        "warm_starts": {"dense": True, "uniform": [0.5]},
    },
    "tracking": {"experiment": "e"},
    "adapt": {"lr": 1e-4},
    "finetune": {"epochs": 3},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with every kind of file that a command reads."""
    study = make_study(tmp_path_factory.mktemp("strange") / "runs" / "s", [(50, 0.8), (40, 0.7), (30, 0.75)])
    for number, row in enumerate(all_rows(study)):
        images = [{"dataset": "kv", "name": f"{i}.png", "boundary_f1": i / 4, "hd95": 2.0 + number} for i in range(4)]
        write_images(study, row.trial_id, images)
        write_issued(study, IssuedTrial(row.trial_id, number, 10 + number, "sampled", {"heads/00": 0.5}))
    own = Measurement("t0000", False, None, "a", "val/report", "b", 2, {"dice": 0.5}, "2026-01-01T00:00:00+00:00", "g")
    write_measurement(study, own, read_images(study, {"t0000"}).drop(columns="trial_id"))
    started(study)
    timing = Timing(10.0, 0.5, 9, 9.8, 10.1, 9.0)
    latency, setup = Latency(timing, timing, 1_000_000), Setup("cpu", 1, False, "2.9")
    add_latency(study, [Record("t0001", 0.5, 1, setup, "2026-01-01", latency, latency)])
    (study / "config.yaml").write_text(json.dumps(CONFIG))
    return study


def consume(study: Path) -> str:
    """Read a study as the commands do, and return what they show."""
    shown = ""
    for use in (_front, _tracking, _report, _resume):
        try:
            shown += use(study)
        except MedcoreError as error:
            shown += _one_line(error)
    return shown


def _front(study: Path) -> str:
    found = front(str(study))
    out = io.StringIO()
    PlainConsole(file=out, width=120).print(front_view(found))
    json.dumps(found.to_dict())
    return out.getvalue() + _markdown(found)


def _markdown(found: Front) -> str:
    cells = front_cells(found)
    return table([*map(plain, cells)], [[*map(plain, row)] for row in cells.itertuples(index=False)])


def _tracking(study: Path) -> str:
    saved_tracker(study)
    rows, info = all_rows(study), read_study_info(study)
    for row in rows:
        points.run_tags(row), points.run_params(row), points.run_name(row)
        points.run_points(row, read_phases(study, row.trial_id))
    points.front_ranks_of(rows, info), points.study_points(rows, info, 0)
    standing = Standing(info, read_study(study), measured=read_measurements(study))
    text = study_page(read_whole_note(study), standing, Place("#/front", folder=str(study)), LONGEST)
    _wanted_trials(study)
    return text


def _report(study: Path) -> str:
    found = front(str(study))
    images = read_images(study)
    config, notes = _config(study)
    members = members_of(pd.DataFrame([*map(dict, found.records)]).assign(status="done"), found.info, ())
    facts = (
        data_sets(config, images),
        models(config),
        held_out_rows(study),
        notes,
        [member.rules for member in members],
    )
    return printable(str(facts))


def _resume(study: Path) -> str:
    compact(study)
    all_issued(study)
    saved_study(study, saved_values(study))
    load_config(study / "config.yaml")
    return ""


def _one_line(error: MedcoreError) -> str:
    text = str(error)
    assert text and "\n" not in text and len(text) <= 1500 and "<class" not in text
    return f"{text}\n"


def edited(draw: Draw, value: Any) -> Any:
    """Replace, remove or add a value somewhere in a nested one."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value, key=str) if isinstance(value, dict) else range(len(value))))
        copy = dict(value) if isinstance(value, dict) else list(value)
        match draw(st.sampled_from(["inside", "inside", "inside", "remove", "add"])):
            case "remove":
                del copy[key]
            case "add" if isinstance(copy, dict):
                copy[draw(st.sampled_from(KEYS))] = draw(st.sampled_from(ODD))
            case _:
                copy[key] = edited(draw, copy[key])
        return copy
    return draw(st.sampled_from(ODD))


def damaged(draw: Draw, content: bytes) -> bytes:
    """Cut, double or overwrite a piece of a file."""
    start = draw(st.integers(0, len(content)))
    end = min(len(content), start + draw(st.sampled_from([1, 4, 64, 10**6])))
    piece = draw(st.sampled_from([b"", b"\0", b"\xff", b"[" * 5000, b"&a [*a]", b"\n", b'"', content[start:end] * 2]))
    return content[:start] + piece + content[end:]


def damage(draw: Draw, study: Path) -> None:
    """Change one file of a study."""
    files = sorted(path for path in study.rglob("*") if path.suffix in (".json", ".yaml", ".parquet"))
    path = draw(st.sampled_from(files))
    if path.suffix == ".parquet" and draw(st.booleans()):
        rows = edited(draw, pd.read_parquet(path).to_dict("records"))
        try:
            pq.write_table(pa.Table.from_pylist(rows), path)
        except (pa.ArrowException, AttributeError, LookupError, TypeError, ValueError, OverflowError):
            return  # no table can hold these
    elif path.suffix != ".parquet" and draw(st.integers(0, 3)):
        path.write_text(json.dumps(edited(draw, json.loads(path.read_text()))))
    else:
        path.write_bytes(damaged(draw, path.read_bytes()))


def configuration(draw: Draw) -> bytes:
    """Return the text of a configuration with a mistake, or with a change that is none."""
    values = CONFIG
    for _ in range(draw(st.integers(1, 2))):
        values = edited(draw, values)
    style = draw(st.sampled_from(["json", "yaml", "bytes"]))
    text = json.dumps(values) if style == "json" else yaml.safe_dump(CONFIG if style == "bytes" else _plain(values))
    return damaged(draw, text.encode()) if style == "bytes" else text.encode()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value).replace("\\ud800", "x"))


def check_study(whole: Path, draw: Draw) -> None:
    copy = whole.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    damage(draw, copy)
    shown = consume(copy)
    assert shown == printable(shown, keep="\n")


def check_configuration(folder: Path, draw: Draw) -> None:
    path = folder / "mine.yaml"
    path.write_bytes(configuration(draw))
    try:
        config = load_config(path)
    except MedcoreError as error:
        _one_line(error)
        return
    path.write_text(config.to_yaml())
    assert load_config(path) == config


QUICK = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
LONG = settings(QUICK, max_examples=2000, derandomize=False)


@QUICK
@given(data=st.data())
def test_damaged_studies_are_read_or_refused(whole: Path, data: st.DataObject) -> None:
    check_study(whole, data.draw)


@QUICK
@given(data=st.data())
def test_damaged_configurations_are_read_or_refused(whole: Path, data: st.DataObject) -> None:
    check_configuration(whole.parent, data.draw)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@LONG
@given(data=st.data())
def test_two_thousand_damaged_studies(whole: Path, data: st.DataObject) -> None:
    check_study(whole, data.draw)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@LONG
@given(data=st.data())
def test_two_thousand_damaged_configurations(whole: Path, data: st.DataObject) -> None:
    check_configuration(whole.parent, data.draw)
