"""Commands on a study of someone else: what its files say is shown and never obeyed."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from medcore.errors import MedcoreError
from search.commands.export import ExportRequest, export
from search.commands.report.report import report
from tests.support.machines.command_line import medcore
from tests.support.studies.export_study import write_study_of_one
from tests.support.studies.tracking import started

ODD = "[/b]<script>alert(1)</script>\x1b]0;owned\x07\x1b[2J|`$\\frac{$"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("URI", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    return write_study_of_one(tmp_path)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """A server that keeps what arrives: its address, and the requests."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(4000))

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        server.shutdown(socket.SHUT_RDWR)


def hold_out(study: Path) -> None:
    """Let the study name images that an export measures."""
    values = yaml.safe_load((study / "config.yaml").read_text()) | {"study": "s"}
    values["data"] |= {"search_split": "train", "report_split": "val"}
    (study / "config.yaml").write_text(yaml.safe_dump(values))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_front_shows_names_as_they_are(study: Path, tmp_path: Path) -> None:
    edit(study / "trials" / "t0000" / "row.json", origin=ODD)
    edit(study / "study.json", name=f"a{ODD}")
    done = medcore("front", study, "--out", tmp_path / "front")
    assert done.returncode == 0, done.stderr
    assert "[/b]<script>" in done.stdout and r"\x1b]0;owned\x07" in done.stdout
    assert not set(done.stdout + done.stderr) & {"\x1b", "\x07"}
    text = (tmp_path / "front" / "front.md").read_text()
    assert r"\[/b\]\<script\>" in text and "\x1b" not in text
    assert (tmp_path / "front" / "front.png").stat().st_size > 1000  # a dollar sign begins no formula


def test_the_report_holds_no_script_of_a_row(study: Path, tmp_path: Path) -> None:
    edit(study / "trials" / "t0000" / "row.json", origin=ODD)
    edit(study / "study.json", name=f"a{ODD}", machine=ODD)
    report(str(study), tmp_path / "r.html", images=1)
    page = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not set(page) & {"\x1b", "\x07"}
    # plotly's data are JSON, in which our HTML of a point has its own tags only
    hover = re.findall(r"t0000 (?:·|\\u00b7) .*?kept", page)
    assert hover and all(r"\u0026lt;script" in each or "&lt;script" in each for each in hover)


def test_an_export_contacts_no_server_that_only_the_study_names(
    study: Path,
    tmp_path: Path,
    listener: tuple[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri, seen = listener
    started(study, uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "victim")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    hold_out(study)
    export(ExportRequest(str(study), tmp_path / "a.safetensors", latency=False))
    assert any("only a study names" in message for message in caplog.messages) and not seen
    with pytest.raises(MedcoreError, match="only a study names"):
        export(ExportRequest(str(study), tmp_path / "m", format="mlflow", register="x"))
    (note,) = [each for each in report(str(study), tmp_path / "r.html", images=1, log=True) if "not sent" in each]
    assert "only a study names" in note and not seen
    notes = report(str(study), tmp_path / "r.html", images=0, log=True)
    assert any("contact sheets that an earlier --log has sent are still in MLflow" in each for each in notes)
    for words in (["sync", study], ["search", study / "config.yaml", "--resume"]):
        done = medcore(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not seen
    report(str(study), tmp_path / "r.html", images=1, log=True, tracking_uri=uri)  # given, so it is asked for
    assert seen and b"authorization: basic" in seen[0].lower()


def test_held_out_figures_are_not_written_through_a_link(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (study / "held_out").symlink_to(tmp_path / "elsewhere")
    hold_out(study)
    export(ExportRequest(str(study), tmp_path / "a.safetensors", latency=False))
    assert any("held_out: is a link" in message for message in caplog.messages)
    assert [*(tmp_path / "elsewhere").iterdir()] == []


@pytest.mark.parametrize("text", ["model: [1]\n", "data: 3\n", "- a list\n", "a: 1\na: 2\n", "[" * 100_000])
def test_a_corrupt_configuration_is_named(study: Path, tmp_path: Path, text: str) -> None:
    (study / "config.yaml").write_text(text)
    with pytest.raises(MedcoreError, match=r"config\.yaml: "):
        export(ExportRequest(str(study), tmp_path / "a.safetensors", latency=False, held_out=False))


def test_a_table_of_images_that_holds_lists_is_named(study: Path, tmp_path: Path) -> None:
    path = study / "trials" / "t0000" / "images.parquet"
    images = pd.read_parquet(path)
    for change, reason in (
        (images.assign(dice=[[1, 2]] * len(images)), "dice must be numbers"),
        (pd.concat([images, images]), "two rows"),
        (images.assign(name=range(len(images))), "must be text"),
    ):
        change.to_parquet(path)
        with pytest.raises(MedcoreError, match=rf"images\.parquet: corrupt \(.*{reason}"):
            export(ExportRequest(str(study), tmp_path / "a.safetensors", latency=False, held_out=False))


def test_names_that_are_no_utf8_end_no_command(study: Path, tmp_path: Path) -> None:
    model, image = study.parent.parent / "base.safetensors", next((tmp_path / "polyps" / "images").iterdir())
    out = tmp_path / os.fsdecode(b"M\xfcller.png")
    done = medcore("predict", model, image, "--box", "1,1,9,9", "--out", out)
    assert done.returncode == 0 and out.is_file() and r"M\xfcller.png: " in done.stdout, done.stderr
