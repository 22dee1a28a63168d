"""What people type: the scripts of cluster/ run with stand-ins, and the commands of its README exist."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from search.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text()


def stand_in(folder: Path, program: str, script: str) -> None:
    path = folder / program
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), **more}


# MLflow's server


def serve(tmp_path: Path, *, leave_out: str | None = None) -> subprocess.CompletedProcess[str]:
    """`serve.sh` with a stand-in that prints what the server would get."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "secrets").mkdir()
    for key in ("database_password", "admin_password", "session_key", "storage_key_id", "storage_key"):
        if key != leave_out:
            (tmp_path / "secrets" / key).write_text(f"the {key}\n")
    stand_in(tmp_path / "bin", "mlflow", 'echo "$@"; env')
    variables = environment(tmp_path, SECRETS=str(tmp_path / "secrets"), ARTIFACTS="s3://bucket/runs")
    return subprocess.run(
        ["bash", CLUSTER / "mlflow" / "serve.sh"], env=variables, capture_output=True, text=True, timeout=20
    )


def test_mlflow_is_served_behind_a_login_with_secrets_from_files(tmp_path: Path) -> None:
    arguments, *variables = serve(tmp_path).stdout.splitlines()
    values = dict(line.split("=", 1) for line in variables if "=" in line)
    assert values["PGPASSWORD"] == "the database_password"
    assert values["MLFLOW_AUTH_ADMIN_PASSWORD"] == "the admin_password"
    assert values["MLFLOW_FLASK_SERVER_SECRET_KEY"] == "the session_key"
    assert (values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]) == ("the storage_key_id", "the storage_key")
    assert "--app-name basic-auth" in arguments
    assert "the " not in arguments  # no secret where a process list shows it
    assert "--artifacts-destination s3://bucket/runs" in arguments


def test_mlflow_does_not_start_without_a_secret(tmp_path: Path) -> None:
    done = serve(tmp_path, leave_out="admin_password")
    assert done.returncode != 0
    assert "admin_password" in done.stderr
    assert not done.stdout


def test_mlflows_options_and_authentication_keys_exist() -> None:
    # read as files: importing the server takes seconds, and its authentication wants packages of the server's image
    package = Path(importlib.util.find_spec("mlflow").origin).parent
    source = (package / "cli" / "__init__.py").read_text() + (package / "utils" / "cli_args.py").read_text()
    script = (CLUSTER / "mlflow" / "serve.sh").read_text()
    for option in re.findall(r"(--[a-z-]+) ", script.split("exec mlflow server")[1]):
        assert f'"{option}"' in source, option
    ours = configparser.ConfigParser()
    ours.read(CLUSTER / "mlflow" / "auth.ini")
    theirs = (package / "server" / "auth" / "basic_auth.ini").read_text()
    for key in ours["mlflow"]:
        assert re.search(rf"^(# )?{key} =", theirs, re.MULTILINE), key
    assert f"--backend-store-uri {ours['mlflow']['database_uri']}" in script  # one database
    assert ours["mlflow"]["default_permission"] == "NO_PERMISSIONS"


# Slurm


def submit(tmp_path: Path, *arguments: str, medcore: str = "true", ray: str = "") -> subprocess.CompletedProcess[str]:
    """`search.sbatch` on a cluster of stand-ins: Ray runs the entrypoint, as symmetric-run does on the head."""
    for folder in ("bin", "venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    stand_in(tmp_path / "bin", "scontrol", "printf 'node7\\nnode8\\n'")
    stand_in(tmp_path / "bin", "srun", 'shift; exec "$@"')
    make_token = f'mkdir -p "{tmp_path}/.ray"; echo made-up | tee "{tmp_path}/.ray/auth_token"'
    run = ray or 'echo "ray $* auth=$RAY_AUTH_MODE"; until [[ $1 == -- ]]; do shift; done; shift; exec "$@"'
    stand_in(tmp_path / "bin", "ray", f"if [[ $1 == get-auth-token ]]; then {make_token}; exit; fi; {run}")
    stand_in(tmp_path / "bin", "medcore", f'echo "medcore $*"; {medcore}')
    variables = environment(
        tmp_path,
        MEDCORE_VENV=str(tmp_path / "venv"),
        SLURM_JOB_ID="123456",
        SLURM_JOB_NODELIST="node[7-8]",
        SLURM_JOB_NUM_NODES="2",
    )
    return subprocess.run(
        ["bash", CLUSTER / "slurm" / "search.sbatch", *arguments],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_slurm_starts_ray_with_a_token_and_the_search_on_it(tmp_path: Path) -> None:
    done = submit(tmp_path, "my study.yaml", "--trials", "8")
    assert done.returncode == 0, done.stderr
    start, search = done.stdout.splitlines()
    assert start.endswith("auth=token")
    assert search == "medcore search my study.yaml --ray-address node7:23456 --resume --trials 8"
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text().strip() not in done.stdout + done.stderr
    assert not list(tmp_path.glob(".medcore-*"))

    # what stands between symmetric-run and -- is accepted by Ray itself
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args  # imports Ray Serve, so only here

    words = shlex.split(start)[2:]
    assert curate_and_validate_ray_start_args(words[: words.index("--")]) == [
        "--disable-usage-stats",
    ]


@pytest.mark.parametrize("failure", [{"medcore": "exit 1"}, {"ray": "exit 0"}], ids=["search", "ray"])
def test_slurm_job_fails_with_the_search_and_with_ray(tmp_path: Path, failure: dict[str, str]) -> None:
    done = submit(tmp_path, "mine.yaml", **failure)
    assert done.returncode != 0
    assert "the same sbatch command resumes it" in done.stderr


# README

BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", README)


def calls(program: str) -> list[str]:
    """Calls of a program in the README, each from its name to what ends it."""
    parts = [part.strip() for command in COMMANDS for part in re.split(r"[|;'()]| -- | && ", command)]
    return [part for part in parts if re.match(rf"{program} [a-z]", part)]


def test_readme_blocks_are_shell() -> None:
    assert BLOCKS
    for block in BLOCKS:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, ""), block


def check_call(command: Any, call: str) -> None:
    """Subcommands and options of a call exist. Typer's commands and click's are not of one class."""
    words = shlex.split(call, comments=True)[1:]
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, call
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, call


def test_readme_calls_of_medcore_have_existing_options() -> None:
    found = calls("medcore")
    assert len(found) >= 5
    for call in found:
        check_call(typer.main.get_command(app), call)


def test_readme_calls_of_ray_have_existing_options() -> None:
    from ray.scripts.scripts import cli  # imports Ray Serve, so only here

    found = calls("ray")
    assert len(found) >= 10
    for call in found:
        check_call(cli, call)


def test_manifests_and_script_call_medcore_with_existing_options() -> None:
    for path in ("kubernetes/job/job.yaml", "slurm/search.sbatch"):
        for call in re.findall(r"(?<=[ :])medcore search .*", (CLUSTER / path).read_text()):
            if path.endswith(".yaml") or '"$config"' in call:
                check_call(typer.main.get_command(app), call.split("||")[0])


def test_readme_names_existing_files_and_all_of_them() -> None:
    named = set(re.findall(r"\bcluster/[\w./-]*\w", "\n".join(COMMANDS)))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)\)", README + (ROOT / "SECURITY.md").read_text()):
        assert (ROOT / link).exists() or (CLUSTER / link).exists(), link
    entry_points = {path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".sbatch")}
    for path in entry_points:
        assert any(str(path.relative_to(ROOT)).startswith(prefix) for prefix in named), path


def test_readme_names_the_variables_that_files_want() -> None:
    assert "MEDCORE_VENV" in README
    compose = (CLUSTER / "mlflow" / "compose.yaml").read_text()
    for variable in {*re.findall(r"\$\{(\w+)", compose), *re.findall(r"\{environment: (\w+)\}", compose)}:
        assert variable in README, variable
