"""The Dockerfile, images and scripts under cluster/: pinned, not root, and clean for their linters."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.deploy.cluster_files import CLUSTER, FILES, PINS, ROOT, complaints, name

SCRIPTS = sorted([*CLUSTER.rglob("*.sh"), *CLUSTER.rglob("*.sbatch")])


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix in (".yaml", "")], ids=name)
def test_images_have_a_pinned_tag(path: Path) -> None:
    text = path.read_text()
    images = re.findall(r"^(?:\s*-?\s*image:|FROM) (\S+)", text, re.MULTILINE)
    for found in set(images) - {"medcore", "medcore-mlflow"}:  # placeholders of kustomizations
        assert re.search(r":v?\d+(\.\d+)+(-[\w.-]+)?$", found), found
    assert "latest" not in text


def test_dockerfile_passes_its_linter() -> None:
    assert complaints("hadolint", "cluster/Dockerfile") == ""


def test_dockerfile_is_pinned_and_not_root() -> None:
    stages = re.split(r"^FROM ", (CLUSTER / "Dockerfile").read_text().replace("\\\n", " "), flags=re.MULTILINE)[1:]
    assert [stage.split()[2] for stage in stages] == ["mlflow", "medcore"]  # the last is built by default
    assert stages[1].startswith("nvidia/cuda:")
    for stage in stages:
        assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["1000:1000"]
        installs = re.findall(r"pip install ([^&\n]*)", stage)
        assert installs
        for install in installs:
            words = shlex.split(install)
            assert words[words.index("--constraint") + 1].endswith("constraints.txt")
            packages = [word for word in words if not word.startswith(("-", ".", "/")) and word != "constraints.txt"]
            assert {package.split("[")[0] for package in packages} <= PINS.keys()


def test_dockerfile_copies_only_what_dockerignore_lets_through() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"  # a list of what enters, not of what stays out
    allowed = [line[1:].rstrip("/") for line in lines if line.startswith("!")]
    for sources in re.findall(r"^COPY (.*) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_pass_bash_and_shellcheck(path: Path) -> None:
    assert complaints("bash", "-n", str(path)) == ""
    assert complaints("shellcheck", str(path)) == ""
